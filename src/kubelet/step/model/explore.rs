//! The bounds within which everything is explored.
//!
//! Those that `cargo test` runs are small enough for that; the others (`cargo test model -- --ignored`) take minutes and
//! more, and are worth them after a change of `step`, of the table or of the model itself.

use std::time::{Duration, Instant};

use dashmap::DashSet;
use stateright::{Checker, HasDiscoveries, Model};

use super::mutants::Mutant;
use super::world::Policy;
use super::{Harbour, Kind};

const ALL: [Kind; 7] = [Kind::Force, Kind::End, Kind::Vanish, Kind::Evict, Kind::Crash, Kind::Break, Kind::TimeOut];

/// One process and one pod, whose name is used once.
fn harbour(policy: Policy, faults: u8, kinds: &[Kind]) -> Harbour {
    Harbour {
        policies: vec![policy],
        processes: 1,
        sites: 1,
        faults,
        lives: 1,
        changes: 0,
        kinds: kinds.to_vec(),
        lag: 1,
        mutant: None,
        eager: true,
        prompt: false,
        resting: DashSet::default(),
        alone: vec![],
    }
}

/// The same, where watches are read before anything more is written, and reports are not put off.
fn hasty(harbour: Harbour) -> Harbour {
    Harbour { lag: 0, prompt: true, ..harbour }
}

/// Explores everything, or as much as there is time for; no property fails, and each of these states is met.
fn holds(harbour: Harbour, at_least: usize, met: &[&'static str]) {
    let begun = Instant::now();
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    let mut builder = harbour.checker().threads(2).finish_when(HasDiscoveries::AnyFailures);
    let limit = std::env::var("MODEL_SECONDS").ok().and_then(|limit| limit.parse().ok()).map(Duration::from_secs);
    if let Some(limit) = limit {
        builder = builder.timeout(limit);
    }
    let checker = builder.spawn_bfs().join();
    let (unique, all) = (checker.unique_state_count(), checker.state_count());
    println!("{name}: {unique} states, {all} moves, depth {}, {:.1?}", checker.max_depth(), begun.elapsed());
    let discoveries = checker.discoveries();
    for (property, path) in &discoveries {
        if checker.discovery_classification(property).to_string() == "counterexample" {
            println!("{:?}", path.last_state());
            checker.model().trail(path.last_state());
            panic!("not so: {property}\n{:#?}", path.clone().into_actions());
        }
    }
    if limit.is_some_and(|limit| begun.elapsed() >= limit) {
        println!("{name}: has not come to an end");
        return;
    }
    for state in met {
        assert!(discoveries.contains_key(state), "never met: {state}");
    }
    assert!(unique >= at_least, "only {unique} states: the model has become too small to mean anything");
}

/// Explores until a property fails, which must be one of these.
fn finds(mutant: Mutant, harbour: Harbour, expected: &[&str]) {
    let harbour = Harbour { mutant: Some(mutant), ..harbour };
    let checker = harbour.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let mut failed = checker.discoveries();
    failed.retain(|property, _| checker.discovery_classification(property).to_string() == "counterexample");
    let failed: Vec<_> = failed.keys().copied().collect();
    println!("{mutant:?}: {failed:?} after {} states", checker.unique_state_count());
    assert!(failed.iter().any(|property| expected.contains(property)), "{mutant:?} has the effects {failed:?}");
}

const LIFE: &str = "a pod completes its life";
const CRASHED: &str = "a process forgets what a server has done for it";
const WAITS: &str = "a namesake waits";
const REPLACED: &str = "a lost instance is replaced";
const GIVEN_UP: &str = "a pod is given up while it runs";
const SILENT: &str = "a target is silent while its pod runs";
const LATE: &str = "a request may arrive after its process";
const CHOSEN: &str = "a site is chosen before a crash and nothing made there";
const MOVED: &str = "a pod runs where it was not first";
const SECOND: &str = "a late request makes a second instance";
const APART: &str = "a pod is decided while a site is not listed";

#[test]
fn a_pod_that_may_start_once() {
    holds(harbour(Policy::Never, 1, &ALL), 100_000, &[LIFE, CRASHED, LATE]);
}

#[test]
fn a_pod_that_starts_again_unless_it_succeeded() {
    let kinds = [Kind::End, Kind::Vanish, Kind::Evict, Kind::TimeOut];
    holds(harbour(Policy::OnFailure, 1, &kinds), 20_000, &[LIFE, REPLACED]);
}

#[test]
fn a_pod_that_changes() {
    let kinds = [Kind::Crash, Kind::Vanish];
    holds(Harbour { changes: 1, lag: 0, ..harbour(Policy::Always, 1, &kinds) }, 10_000, &[CRASHED]);
}

#[test]
fn two_faults() {
    holds(harbour(Policy::Never, 2, &[Kind::Crash, Kind::Vanish]), 100_000, &[CRASHED, LATE]);
}

#[test]
fn three_faults() {
    let kinds = [Kind::Crash, Kind::Break, Kind::TimeOut, Kind::Vanish, Kind::Evict];
    holds(hasty(harbour(Policy::Never, 3, &kinds)), 500_000, &[CRASHED, LATE]);
}

#[test]
fn a_create_that_comes_late_while_instances_vanish() {
    holds(harbour(Policy::Always, 3, &[Kind::TimeOut, Kind::Vanish]), 500_000, &[REPLACED]);
}

#[test]
fn a_name_that_is_used_again() {
    holds(Harbour { lives: 2, lag: 0, ..harbour(Policy::Never, 0, &[Kind::Force]) }, 5_000, &[WAITS]);
}

#[test]
fn workers_that_are_busy_elsewhere() {
    let kinds = [Kind::Crash, Kind::Evict];
    holds(Harbour { eager: false, ..harbour(Policy::Never, 1, &kinds) }, 30_000, &[CRASHED, LATE]);
}

/// Two pods, each of which is compared with what it can be in alone, with faults of its own.
fn two_times_one(faults: u8, kinds: &[Kind]) -> Harbour {
    let policies = vec![Policy::Never, Policy::Always];
    let one = |policy: &Policy| hasty(harbour(*policy, faults, kinds)).worlds();
    let alone = policies.iter().map(one).collect();
    hasty(Harbour { policies, alone, ..harbour(Policy::Never, faults, kinds) })
}

#[test]
fn two_pods() {
    holds(two_times_one(1, &[Kind::Bystander, Kind::Break]), 50_000, &[]);
}

#[test]
fn two_processes() {
    holds(hasty(Harbour { processes: 2, ..harbour(Policy::Never, 0, &[Kind::End]) }), 20_000, &[LIFE]);
}

#[test]
fn a_silence_that_is_waited_for() {
    holds(harbour(Policy::Never, 2, &[Kind::Silence, Kind::Crash]), 100_000, &[SILENT]);
}

#[test]
fn a_silence_that_is_not_waited_for() {
    let kinds = [Kind::Silence, Kind::Replace, Kind::Crash];
    holds(hasty(harbour(Policy::Always, 2, &kinds)), 20_000, &[SILENT, GIVEN_UP]);
}

#[test]
fn a_name_that_is_used_again_after_a_silence() {
    let kinds = [Kind::Silence, Kind::Replace];
    holds(hasty(Harbour { lives: 2, ..harbour(Policy::Never, 1, &kinds) }), 50_000, &[GIVEN_UP, WAITS]);
}

#[test]
fn two_sites() {
    let kinds = [Kind::Crash, Kind::TimeOut, Kind::Move, Kind::Break];
    let harbour = Harbour { sites: 2, ..harbour(Policy::Always, 2, &kinds) };
    holds(hasty(harbour), 100_000, &[CHOSEN, MOVED, SECOND, APART]);
}

#[test]
fn two_sites_and_a_silence() {
    let kinds = [Kind::Crash, Kind::Silence, Kind::Move];
    let harbour = Harbour { sites: 2, ..harbour(Policy::Never, 2, &kinds) };
    holds(hasty(harbour), 100_000, &[CHOSEN, MOVED, SILENT, APART]);
}

#[test]
fn two_sites_and_two_processes() {
    let harbour = Harbour { processes: 2, sites: 2, ..harbour(Policy::Never, 0, &[Kind::End]) };
    holds(hasty(harbour), 100_000, &[LIFE]);
}

#[test]
fn a_choice_of_a_site_that_is_no_more() {
    let kinds = [Kind::Crash, Kind::Stale, Kind::Force];
    holds(hasty(Harbour { sites: 2, lives: 2, ..harbour(Policy::Never, 1, &kinds) }), 5_000, &[]);
}

#[test]
#[ignore = "takes many minutes"]
fn three_faults_at_two_sites() {
    let kinds = [Kind::Crash, Kind::TimeOut, Kind::Move, Kind::Break, Kind::Silence];
    let harbour = Harbour { sites: 2, ..harbour(Policy::Never, 3, &kinds) };
    holds(hasty(harbour), 1_000_000, &[CHOSEN, MOVED, SECOND]);
}

#[test]
#[ignore = "takes many minutes"]
fn a_name_that_is_used_again_with_faults() {
    let kinds = [Kind::Force, Kind::Crash, Kind::Break, Kind::TimeOut];
    holds(hasty(Harbour { lives: 2, ..harbour(Policy::Never, 1, &kinds) }), 1_000_000, &[CRASHED, WAITS]);
}

#[test]
#[ignore = "takes many minutes"]
fn two_pods_with_two_faults() {
    holds(two_times_one(2, &[Kind::Bystander, Kind::Crash, Kind::Break]), 1_000_000, &[CRASHED]);
}

#[test]
#[ignore = "takes many minutes"]
fn two_processes_with_a_fault() {
    let kinds = [Kind::Crash, Kind::Break, Kind::TimeOut];
    holds(hasty(Harbour { processes: 2, ..harbour(Policy::Never, 1, &kinds) }), 1_000_000, &[CRASHED, LATE]);
}

#[test]
#[ignore = "takes many minutes"]
fn two_processes_and_force() {
    let kinds = [Kind::End, Kind::Force];
    holds(Harbour { processes: 2, lag: 0, ..harbour(Policy::Never, 0, &kinds) }, 1_000_000, &[LIFE]);
}

const RESTS: &str = "a quiet world comes to rest";
const LAST: &str = "a proxy goes last";
const REAPED: &str = "nothing that should run is stopped";
const LATCH: &str = "a terminal phase never changes";
const ENDED: &str = "what has ended at home is not started";
const COMPLETED: &str = "what has completed is not started";
const ONCE: &str = "a pod that may start once starts once";
const DOUBLED: &str = "no pod has two instances";
const CAUSE: &str = "no pod fails without a cause";

#[test]
fn a_mutant_takes_the_end_of_any_instance_for_that_of_its_own() {
    let harbour = harbour(Policy::Always, 2, &[Kind::Vanish, Kind::TimeOut]);
    finds(Mutant::AnyUid, harbour, &[RESTS, LAST, CAUSE]);
}

#[test]
fn a_mutant_lets_the_dead_rise() {
    finds(Mutant::NoTombstone, harbour(Policy::Always, 1, &[Kind::Vanish]), &[RESTS]);
}

#[test]
fn a_mutant_takes_what_is_not_listed_for_absent() {
    finds(Mutant::UnknownIsAbsent, harbour(Policy::Never, 1, &[Kind::Crash]), &[LAST, ONCE]);
}

#[test]
fn a_mutant_reaps_what_it_has_not_seen_at_home() {
    let harbour = Harbour { processes: 2, ..harbour(Policy::Always, 0, &[]) };
    finds(Mutant::UnseenIsGone, harbour, &[REAPED, RESTS]);
}

#[test]
fn a_mutant_ignores_the_version_of_a_patch() {
    let harbour = Harbour { processes: 2, lag: 2, ..harbour(Policy::Never, 0, &[Kind::End]) };
    finds(Mutant::BlindPatch, harbour, &[LATCH]);
}

#[test]
fn a_mutant_overlooks_the_end_at_home() {
    finds(
        Mutant::NoLatch,
        harbour(Policy::Always, 2, &[Kind::End, Kind::Vanish, Kind::Crash]),
        &[ENDED, COMPLETED, LATCH],
    );
}

#[test]
fn a_mutant_removes_the_proxy_before_its_instance() {
    finds(Mutant::ProxyFirst, harbour(Policy::Never, 0, &[]), &[LAST]);
}

#[test]
fn a_mutant_does_not_wait_for_containers() {
    finds(Mutant::NoGrace, harbour(Policy::Never, 0, &[]), &["an instance ends before it is removed"]);
}

#[test]
fn a_mutant_forgets_that_it_has_started() {
    finds(Mutant::ForgetsStart, harbour(Policy::Never, 1, &[Kind::Vanish]), &[ONCE]);
}

#[test]
fn a_mutant_never_tries_again() {
    finds(Mutant::NoRetry, harbour(Policy::Never, 1, &[Kind::TimeOut]), &[RESTS]);
}

#[test]
fn a_mutant_trusts_an_answer_that_is_older_than_a_list() {
    finds(Mutant::TrustsOldAnswers, harbour(Policy::Always, 2, &[Kind::Vanish, Kind::Break]), &[RESTS]);
}

#[test]
fn a_mutant_does_not_wait_for_a_silent_target() {
    finds(
        Mutant::NoPatience,
        harbour(Policy::Always, 1, &[Kind::Silence]),
        &[CAUSE, "no pod is removed without a cause"],
    );
}

#[test]
fn a_mutant_hears_late_that_a_list_has_begun() {
    finds(Mutant::LateListing, harbour(Policy::Never, 1, &[Kind::Break]), &[RESTS, LAST]);
}

#[test]
fn a_mutant_overwrites_the_choice_of_another_process() {
    let harbour = Harbour { processes: 2, sites: 2, ..harbour(Policy::Always, 0, &[]) };
    finds(Mutant::BlindChoice, hasty(harbour), &[DOUBLED]);
}

#[test]
fn a_mutant_does_not_wait_for_what_it_moves() {
    let harbour = Harbour { sites: 2, ..harbour(Policy::Always, 1, &[Kind::Move]) };
    finds(Mutant::HastyMove, hasty(harbour), &[DOUBLED]);
}
