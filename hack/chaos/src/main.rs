//! Breaks things at random around Longshore on real API servers, heals all, and judges what was seen.
//!
//! `SEED=7 DURATION=120 PODS=300 make chaos`; without a seed one is made up and shown. The same seed makes the same plan of
//! faults and the same users; how they meet the world differs from run to run, as times do. See docs/chaos.md.

mod cluster;
mod configs;
mod copies;
mod dice;
mod judge;
mod meddle;
mod plan;
mod record;
mod run;
mod settings;
mod storm;
mod story;
mod workload;
mod world;

use std::process::ExitCode;

use anyhow::Result;

use crate::run::storm;
use crate::settings::Settings;
use crate::world::World;

fn main() -> ExitCode {
    match all_storms() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("chaos: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether no promise was broken in any of them.
fn all_storms() -> Result<bool> {
    let settings = Settings::from_environment()?;
    // Its end takes the clusters down, whatever happens.
    let world = World::up(&settings)?;
    let mut innocent = true;
    for seed in &settings.seeds {
        println!("\n{}", settings.command(*seed));
        innocent &= storm(&settings, *seed, &world)?;
    }
    Ok(innocent)
}
