//! Measures Longshore from outside, on real API servers with simulated nodes, beside plain Kubernetes and a null offloader.
//!
//! What is measured are watches of both API servers, their audit logs, and /proc. `PODS=1000,5000 make bench`; see
//! docs/performance.md.

#![expect(clippy::cast_precision_loss, reason = "what is shown has three digits")]

mod audit;
mod cluster;
mod fake;
mod measure;
mod process;
mod report;
mod scale;
mod settings;
mod sight;
mod streams;
mod subject;
mod svg;
mod world;

use anyhow::{Context, Result};

use crate::measure::{Quiet, burst, churn, restart, tidy};
use crate::report::{Entry, Report};
use crate::settings::Settings;
use crate::subject::{Kind, Subject};
use crate::world::World;

fn main() -> Result<()> {
    // Fails only if there is one already.
    tokio::runtime::Runtime::new()?.block_on(run(&Settings::from_environment()?))
}

async fn run(settings: &Settings) -> Result<()> {
    std::fs::create_dir_all(&settings.out)?;
    let mut report = Report::default();
    for pods in &settings.scale {
        eprintln!("bench: {pods} pods over twenty targets");
        let scale = scale::scale(settings, *pods).await;
        report.scales.push(scale.with_context(|| format!("{pods} pods over twenty targets"))?);
        report.write(&settings.out)?;
    }
    if !settings.bursts.is_empty() || !settings.rates.is_empty() {
        bursts(settings, &mut report).await?;
    }
    if settings.streams {
        eprintln!("bench: logs, port-forwards and execs");
        let world = World::real(settings).await?;
        let mut subject = start(Kind::Longshore, settings, &world).await?;
        report.streams = Some(streams::streams(&world, &subject).await.context("logs, port-forwards and execs")?);
        subject.stop()?;
    }
    println!("{}", report.write(&settings.out)?);
    eprintln!("bench: the report and its plots are in {}", settings.out.display());
    Ok(())
}

/// Bursts, and pods that come and go.
async fn bursts(settings: &Settings, report: &mut Report) -> Result<()> {
    let world = World::up(settings).await?;
    tidy(&world).await?;
    let kinds: Vec<Kind> = settings.subjects.iter().map(|name| Kind::parse(name)).collect();
    for pods in &settings.bursts {
        for round in 1..=settings.rounds {
            for kind in &kinds {
                let what = if settings.rounds > 1 { format!("{pods} round {round}") } else { pods.to_string() };
                eprintln!("bench: a burst of {what} pods, {}", kind.name());
                let mut subject = start(*kind, settings, &world).await?;
                let last = *kind == Kind::Longshore && settings.bursts.last() == Some(pods) && round == settings.rounds;
                let mut quiet = last.then(Quiet::default);
                let outcome = burst(&world, &subject, *pods, quiet.as_mut().map(|quiet| (settings, quiet))).await;
                let outcome = outcome.with_context(|| format!("a burst of {pods} pods, {}", kind.name()))?;
                report.bursts.push(Entry { what, kind: *kind, outcome });
                report.write(&settings.out)?;
                if let Some(mut quiet) = quiet {
                    restart(&world, &mut subject, *pods, &mut quiet).await.context("a restart")?;
                    report.quiet = Some((*pods, quiet));
                }
                subject.stop()?;
                report.write(&settings.out)?;
            }
        }
    }
    for rate in &settings.rates {
        for kind in &kinds {
            eprintln!("bench: {rate} pods a second, {}", kind.name());
            let mut subject = start(*kind, settings, &world).await?;
            let outcome = churn(&world, &subject, *rate, settings.seconds).await;
            let outcome = outcome.with_context(|| format!("{rate} pods a second, {}", kind.name()))?;
            subject.stop()?;
            report.churns.push(Entry { what: format!("{rate} a second"), kind: *kind, outcome });
            report.write(&settings.out)?;
        }
    }
    Ok(())
}

async fn start(kind: Kind, settings: &Settings, world: &World) -> Result<Subject> {
    Subject::start(kind, settings, &world.dir, &world.home, &world.target).await
}
