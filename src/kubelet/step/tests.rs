//! The life of one pod, told event by event.

use crate::kubelet::provider::Obstacle;
use crate::kubelet::sites::NOWHERE;

use super::decide::unlisted;
use super::*;

fn proxy(version: u64) -> ProxyView {
    ProxyView {
        version,
        deleting: None,
        health: Health::default(),
        replaceable: true,
        once: false,
        want: 7,
        site: Some(0),
        chosen: false,
        given_up: false,
        evictable: false,
    }
}

fn instance(uid: &str, version: u64) -> InstanceView {
    InstanceView {
        uid: uid.into(),
        version,
        sent: 7,
        deleting: None,
        health: Health::default(),
        started: false,
        site: 0,
    }
}

fn running() -> Health {
    Health { phase: Phase::Running, ready: true, trouble: false }
}

fn ended(phase: Phase) -> Health {
    Health { phase, ready: false, trouble: false }
}

fn mirror(urgent: bool) -> Action {
    Action::Report { evidence: Evidence::Instance, urgent }
}

fn delete(uid: &str, grace: Option<u32>) -> Action {
    Action::Delete { instance: uid.into(), site: 0, grace }
}

/// A record with both sides listed and nothing there.
fn listed() -> Record {
    Record { proxy: Presence::Absent, instance: Presence::Absent, ..Record::default() }
}

/// A record of a pod that runs on both sides.
fn settled() -> Record {
    let mut record = listed();
    step(&mut record, Event::ProxySeen(ProxyView { health: running(), replaceable: false, ..proxy(5) }));
    step(&mut record, Event::InstanceSeen(InstanceView { health: running(), ..instance("i", 5) }));
    record
}

#[test]
fn the_undisturbed_life_takes_five_writes() {
    let mut record = listed();
    let mut writes = vec![];
    let mut feed = |event: Event, record: &mut Record| {
        let actions = step(record, event);
        writes.extend(actions.iter().filter(|a| !matches!(a, Action::Report { urgent: false, .. })).cloned());
        actions
    };
    assert_eq!(feed(Event::ProxySeen(proxy(1)), &mut record), [Action::Create]);
    assert_eq!(feed(Event::Answer(Answer::Created(instance("i", 1))), &mut record), [mirror(false)]);
    let up = InstanceView { health: running(), ..instance("i", 2) };
    assert_eq!(feed(Event::InstanceSeen(up), &mut record), [mirror(true)]);
    let shown = ProxyView { health: running(), ..proxy(2) };
    assert_eq!(feed(Event::Answer(Answer::Reported(shown.clone())), &mut record), [mirror(false)]);
    assert_eq!(feed(Event::ProxySeen(shown.clone()), &mut record), [mirror(false)], "our own write comes back");
    let leaving = ProxyView { version: 3, deleting: Some(30), ..shown };
    let actions = feed(Event::ProxySeen(leaving.clone()), &mut record);
    assert_eq!(actions, [delete("i", Some(30)), mirror(false)]);
    assert_eq!(feed(Event::Answer(Answer::Stopping("i".into(), 30)), &mut record), [mirror(false)]);
    let over = InstanceView { deleting: Some(30), health: ended(Phase::Failed), ..instance("i", 3) };
    assert_eq!(feed(Event::InstanceSeen(over), &mut record), [mirror(true)]);
    let shown = ProxyView { version: 4, health: ended(Phase::Failed), ..leaving };
    assert_eq!(feed(Event::Answer(Answer::Reported(shown)), &mut record), [mirror(false)]);
    assert_eq!(feed(Event::InstanceGone("i".into()), &mut record), [Action::DeleteProxy]);
    assert_eq!(feed(Event::Answer(Answer::ProxyDeleted), &mut record), []);
    assert_eq!(feed(Event::ProxyGone, &mut record), [Action::Forget]);
    assert_eq!(writes.iter().filter(|a| **a != Action::Forget).count(), 5, "{writes:?}");
}

#[test]
fn nothing_follows_from_absence_before_a_list_is_complete() {
    let mut record = Record::default();
    let told = Action::Report { evidence: Evidence::Waiting(unlisted()), urgent: false };
    assert_eq!(step(&mut record, Event::ProxySeen(proxy(1))), [told], "the instance may exist");
    assert_eq!(step(&mut record, Event::NoInstance), [Action::Create]);

    let mut record = Record::default();
    assert_eq!(step(&mut record, Event::InstanceSeen(instance("i", 1))), [], "its proxy may exist");
    assert_eq!(step(&mut record, Event::ProxyGone), [delete("i", None)]);
}

#[test]
fn a_deleted_proxy_waits_for_a_target_that_is_not_listed() {
    let mut record = Record::default();
    assert_eq!(step(&mut record, Event::ProxySeen(ProxyView { deleting: Some(0), ..proxy(1) })), []);
}

#[test]
fn an_instance_of_a_proxy_that_was_never_seen_is_not_stopped_unasked() {
    let mut record = listed();
    assert_eq!(step(&mut record, Event::InstanceSeen(instance("i", 1))), [Action::FindProxy]);
    assert_eq!(step(&mut record, Event::Answer(Answer::ProxyMissing)), [delete("i", None)]);
}

#[test]
fn a_terminal_proxy_is_never_started_again() {
    let mut record = listed();
    let over = ProxyView { health: ended(Phase::Succeeded), ..proxy(9) };
    assert_eq!(step(&mut record, Event::ProxySeen(over)), []);
}

#[test]
fn a_stale_copy_of_a_terminal_proxy_is_stopped() {
    let mut record = settled();
    let failed = ProxyView { health: ended(Phase::Failed), ..proxy(9) };
    assert_eq!(step(&mut record, Event::ProxySeen(failed)), [delete("i", None)]);
}

#[test]
fn an_instance_that_went_is_not_raised_by_a_late_answer() {
    let mut record = listed();
    step(&mut record, Event::ProxySeen(proxy(1)));
    step(&mut record, Event::InstanceSeen(instance("i", 1)));
    step(&mut record, Event::InstanceGone("i".into()));
    step(&mut record, Event::Answer(Answer::Created(instance("i", 1))));
    assert_eq!(record.instance, Presence::Absent);
}

#[test]
fn a_proxy_that_went_is_not_raised_by_a_late_answer() {
    let mut record = settled();
    step(&mut record, Event::ProxyGone);
    let actions = step(&mut record, Event::Answer(Answer::Reported(proxy(9))));
    assert_eq!(actions, [delete("i", None)]);
}

#[test]
fn old_news_changes_nothing() {
    let mut record = settled();
    let before = record.clone();
    step(&mut record, Event::InstanceSeen(InstanceView { deleting: Some(1), ..instance("i", 4) }));
    step(&mut record, Event::ProxySeen(ProxyView { deleting: Some(1), ..proxy(4) }));
    assert_eq!(record, before);
}

#[test]
fn the_end_of_another_instance_is_not_the_end_of_this_one() {
    let mut record = settled();
    let actions = step(&mut record, Event::InstanceGone("other".into()));
    assert!(!actions.iter().any(|a| matches!(a, Action::Create | Action::DeleteProxy)), "{actions:?}");
    assert!(record.instance.there().is_some());
}

#[test]
fn an_instance_deleted_over_there_is_replaced_where_the_restart_policy_allows() {
    let mut record = settled();
    step(&mut record, Event::ProxySeen(ProxyView { health: running(), ..proxy(6) }));
    let leaving = InstanceView { deleting: Some(30), health: ended(Phase::Failed), ..instance("i", 6) };
    let actions = step(&mut record, Event::InstanceSeen(leaving));
    assert_eq!(actions, [Action::Report { evidence: Evidence::Leaving, urgent: true }]);
    assert_eq!(step(&mut record, Event::InstanceGone("i".into())), [Action::Create]);
}

#[test]
fn an_instance_deleted_over_there_fails_a_pod_that_must_not_run_twice() {
    let mut record = settled();
    assert_eq!(step(&mut record, Event::InstanceGone("i".into())), [Action::FindInstance], "it is asked for first");
    let actions = step(&mut record, Event::Answer(Answer::InstanceMissing));
    assert_eq!(actions, [Action::Report { evidence: Evidence::Lost, urgent: true }]);
}

fn too_large() -> Obstacle {
    Obstacle { reason: "OutOfcpu".into(), message: "too large".into() }
}

#[test]
fn a_pod_that_the_provider_refuses_for_good_has_failed() {
    let mut record = listed();
    assert_eq!(step(&mut record, Event::ProxySeen(proxy(1))), [Action::Create]);
    let failed = [Action::Report { evidence: Evidence::Rejected(too_large()), urgent: true }];
    assert_eq!(step(&mut record, Event::Answer(Answer::Rejected(too_large()))), failed);
    assert_eq!(step(&mut record, Event::Answer(Answer::Conflict(1))), [], "the watch tells of the change");
    assert_eq!(step(&mut record, Event::ProxySeen(proxy(2))), failed, "until home shows it");
    let over = ProxyView { health: ended(Phase::Failed), ..proxy(3) };
    assert_eq!(step(&mut record, Event::Answer(Answer::Reported(over))), []);
}

#[test]
fn a_refusal_does_not_count_while_an_attempt_before_it_is_in_doubt() {
    let mut record = listed();
    step(&mut record, Event::ProxySeen(proxy(1)));
    let obstacle = Obstacle { reason: "TargetUnreachable".into(), message: String::new() };
    step(&mut record, Event::Answer(Answer::Refused { obstacle, retry: true }));
    step(&mut record, Event::Retry);
    assert_eq!(step(&mut record, Event::Answer(Answer::Rejected(too_large()))), [Action::FindInstance]);
    let mut found = record.clone();
    assert_eq!(step(&mut found, Event::Answer(Answer::Created(instance("i", 1)))), [mirror(false)], "it runs");
    let actions = step(&mut record, Event::Answer(Answer::InstanceMissing));
    assert_eq!(actions, [Action::Report { evidence: Evidence::Rejected(too_large()), urgent: true }]);
}

#[test]
fn a_proxy_that_was_found_missing_is_not_forgotten_before_the_watch_knows() {
    let mut record = settled();
    assert_eq!(step(&mut record, Event::Answer(Answer::ProxyMissing)), [delete("i", None)]);
    assert_eq!(step(&mut record, Event::InstanceGone("i".into())), [], "the watch may still show the proxy");
    assert_eq!(step(&mut record, Event::ProxySeen(proxy(8))), []);
    assert_eq!(step(&mut record, Event::ProxyGone), [Action::Forget]);
    assert_eq!(step(&mut record, Event::Answer(Answer::ProxyMissing)), [Action::Forget], "no second wait");
}

#[test]
fn a_deleted_proxy_whose_create_was_not_answered_waits_for_the_provider_to_be_asked() {
    let mut record = listed();
    step(&mut record, Event::ProxySeen(proxy(1)));
    let obstacle = Obstacle { reason: "TargetUnreachable".into(), message: String::new() };
    step(&mut record, Event::Answer(Answer::Refused { obstacle, retry: true }));
    let leaving = ProxyView { deleting: Some(30), ..proxy(2) };
    assert_eq!(step(&mut record, Event::ProxySeen(leaving)), [Action::FindInstance]);
    assert_eq!(step(&mut record, Event::Answer(Answer::StopFailed)), [Action::RetryAfter(2)]);
    assert_eq!(step(&mut record, Event::Retry), [Action::FindInstance]);
    let mut found = record.clone();
    let actions = step(&mut found, Event::Answer(Answer::Created(instance("i", 1))));
    assert_eq!(actions, [delete("i", Some(30)), mirror(false)]);
    let actions = step(&mut record, Event::Answer(Answer::InstanceMissing));
    assert_eq!(actions, [Action::Report { evidence: Evidence::Ended, urgent: true }]);
}

#[test]
fn a_pod_that_runs_at_home_is_not_failed_because_its_instance_was_not_seen_yet() {
    let mut record = listed();
    let running = ProxyView { health: running(), replaceable: false, once: true, ..proxy(5) };
    assert_eq!(step(&mut record, Event::ProxySeen(running)), [Action::FindInstance]);
    assert_eq!(step(&mut record, Event::Answer(Answer::Created(instance("i", 5)))), [mirror(true)]);
}

#[test]
fn an_end_that_home_has_not_seen_counts_even_after_the_instance_has_gone() {
    let mut record = settled();
    step(&mut record, Event::ProxySeen(ProxyView { health: running(), ..proxy(6) }));
    let over = InstanceView { health: ended(Phase::Succeeded), started: true, ..instance("i", 6) };
    assert_eq!(step(&mut record, Event::InstanceSeen(over)), [mirror(true)]);
    assert_eq!(step(&mut record, Event::Answer(Answer::HostFailed)), [Action::RetryAfter(1)]);
    step(&mut record, Event::InstanceGone("i".into()));
    assert_eq!(step(&mut record, Event::Retry), [mirror(true)], "completed work is not run again");
    let leaving = ProxyView { version: 7, deleting: Some(30), health: running(), ..proxy(7) };
    assert_eq!(step(&mut record, Event::ProxySeen(leaving)), [mirror(true)]);
}

#[test]
fn what_a_late_request_started_does_not_raise_a_deleted_proxy_that_has_ended() {
    let mut record = listed();
    step(&mut record, Event::ProxySeen(ProxyView { deleting: Some(30), health: ended(Phase::Failed), ..proxy(9) }));
    let late = InstanceView { health: running(), ..instance("late", 9) };
    assert_eq!(step(&mut record, Event::InstanceSeen(late)), [delete("late", Some(30))]);
}

#[test]
fn a_start_that_home_has_not_seen_counts_too() {
    let mut record = listed();
    step(&mut record, Event::ProxySeen(ProxyView { once: true, ..proxy(1) }));
    step(&mut record, Event::InstanceSeen(InstanceView { started: true, ..instance("i", 1) }));
    assert_eq!(step(&mut record, Event::InstanceGone("i".into())), [Action::FindInstance]);
    let actions = step(&mut record, Event::Answer(Answer::InstanceMissing));
    assert_eq!(actions, [Action::Report { evidence: Evidence::Lost, urgent: true }]);
}

#[test]
fn whoever_deletes_all_that_is_created_meets_a_backoff() {
    let mut record = listed();
    step(&mut record, Event::ProxySeen(proxy(1)));
    step(&mut record, Event::Answer(Answer::Created(instance("a", 1))));
    assert_eq!(step(&mut record, Event::InstanceGone("a".into())), [Action::Create]);
    step(&mut record, Event::Answer(Answer::Created(instance("b", 2))));
    assert_eq!(step(&mut record, Event::InstanceGone("b".into())), [Action::RetryAfter(2)]);
    assert_eq!(step(&mut record, Event::Retry), [Action::Create]);
}

#[test]
fn a_refusal_is_shown_and_tried_again_after_a_backoff() {
    let mut record = listed();
    step(&mut record, Event::ProxySeen(proxy(1)));
    let obstacle = Obstacle { reason: "Forbidden".into(), message: "quota".into() };
    let waiting = Action::Report { evidence: Evidence::Waiting(obstacle.clone()), urgent: false };
    let refused = Event::Answer(Answer::Refused { obstacle, retry: true });
    assert_eq!(step(&mut record, refused), [Action::RetryAfter(1), waiting.clone()]);
    assert_eq!(step(&mut record, Event::Look), [std::slice::from_ref(&waiting)].concat());
    assert_eq!(step(&mut record, Event::Retry), [Action::Create, waiting]);
}

#[test]
fn a_held_pod_is_looked_at_again_when_it_changes() {
    let mut record = listed();
    step(&mut record, Event::ProxySeen(proxy(1)));
    let obstacle = Obstacle { reason: "Held".into(), message: "spec.volumes[0]".into() };
    let actions = step(&mut record, Event::Answer(Answer::Refused { obstacle, retry: false }));
    assert!(!actions.contains(&Action::Create) && !actions.iter().any(|a| matches!(a, Action::RetryAfter(_))));
    assert!(step(&mut record, Event::ProxySeen(ProxyView { want: 8, ..proxy(2) })).contains(&Action::Create));
}

#[test]
fn a_lost_race_for_the_status_waits_for_the_watch() {
    let mut record = settled();
    assert_eq!(step(&mut record, Event::Answer(Answer::Conflict(5))), []);
    let newer = ProxyView { version: 6, health: running(), ..proxy(6) };
    assert_eq!(step(&mut record, Event::ProxySeen(newer)), [mirror(false)]);
}

#[test]
fn a_shorter_grace_is_passed_on_and_zero_becomes_one() {
    let mut record = settled();
    let leaving = |grace| ProxyView { version: 10 + u64::from(60 - grace), deleting: Some(grace), ..proxy(0) };
    assert!(step(&mut record, Event::ProxySeen(leaving(30))).contains(&delete("i", Some(30))));
    let actions = step(&mut record, Event::Answer(Answer::Stopping("i".into(), 30)));
    assert!(!actions.iter().any(|a| matches!(a, Action::Delete { .. })), "{actions:?}");
    assert!(step(&mut record, Event::ProxySeen(leaving(5))).contains(&delete("i", Some(5))));
    step(&mut record, Event::Answer(Answer::Stopping("i".into(), 5)));
    assert!(step(&mut record, Event::ProxySeen(leaving(0))).contains(&delete("i", Some(1))));
}

#[test]
fn a_finalizer_on_the_proxy_makes_no_loop() {
    let mut record = listed();
    let over = ProxyView { deleting: Some(30), health: ended(Phase::Failed), ..proxy(3) };
    assert_eq!(step(&mut record, Event::ProxySeen(over.clone())), [Action::FindInstance]);
    assert_eq!(step(&mut record, Event::Answer(Answer::InstanceMissing)), [Action::DeleteProxy]);
    assert_eq!(step(&mut record, Event::Answer(Answer::ProxyDeleted)), []);
    assert_eq!(step(&mut record, Event::ProxySeen(ProxyView { version: 4, deleting: Some(0), ..over })), []);
}

#[test]
fn a_changed_spec_is_sent_once() {
    let mut record = settled();
    let changed = ProxyView { want: 8, health: running(), ..proxy(6) };
    assert_eq!(step(&mut record, Event::ProxySeen(changed)), [Action::Update, mirror(false)]);
    let updated = InstanceView { sent: 8, health: running(), ..instance("i", 6) };
    assert_eq!(step(&mut record, Event::Answer(Answer::Updated(updated))), [mirror(false)]);
}

fn silent_record() -> Record {
    Record { reach: Reach::Silent, ..settled() }
}

#[test]
fn a_silent_side_makes_pods_unready_and_no_more() {
    let mut record = silent_record();
    let [Action::Report { evidence: Evidence::Waiting(obstacle), urgent: true }] = &step(&mut record, Event::Look)[..]
    else {
        panic!("not one report")
    };
    assert_eq!(obstacle.reason, "TargetUnreachable");
    record.instance = Presence::Absent;
    record.proxy = Presence::There(proxy(6));
    assert!(!step(&mut record, Event::Look).contains(&Action::Create), "nothing is started blindly");
}

#[test]
fn a_pod_whose_target_is_none_of_the_nodes_says_so() {
    let mut record = silent_record();
    let astray = ProxyView { site: Some(NOWHERE), ..proxy(6) };
    let [Action::Report { evidence: Evidence::Waiting(obstacle), .. }] =
        &step(&mut record, Event::ProxySeen(astray))[..]
    else {
        panic!("not one report")
    };
    assert_eq!(obstacle.reason, "TargetUnknown");
}

#[test]
fn nobody_is_given_up_unless_the_user_says_so_and_the_side_is_silent() {
    let mut record = settled();
    assert_eq!(step(&mut record, Event::GiveUp), [mirror(false)], "it answers again");
    let mut record = silent_record();
    assert_eq!(step(&mut record, Event::GiveUp), [Action::Report { evidence: Evidence::GivenUp, urgent: true }]);
}

#[test]
fn a_pod_that_was_given_up_goes_and_its_copy_is_stopped() {
    let mut record = silent_record();
    step(&mut record, Event::GiveUp);
    let failed = ProxyView { health: ended(Phase::Failed), given_up: true, ..proxy(6) };
    let actions = step(&mut record, Event::Answer(Answer::Reported(failed)));
    assert_eq!(actions, [Action::DeleteProxy, delete("i", None)]);
    step(&mut record, Event::ProxyGone);
    step(&mut record, Event::Answer(Answer::StopFailed));
    record.reach = Reach::Returning;
    assert_eq!(step(&mut record, Event::Retry), [delete("i", None)], "before anything else happens there");
}

#[test]
fn whoever_finds_a_pod_given_up_removes_it_whatever_it_knows_else() {
    let mut record = Record::default();
    let failed = ProxyView { health: ended(Phase::Failed), given_up: true, ..proxy(6) };
    assert_eq!(step(&mut record, Event::ProxySeen(failed)), [Action::DeleteProxy]);
}

#[test]
fn a_side_that_returns_starts_nothing_before_it_is_clear() {
    let mut record = Record { reach: Reach::Returning, ..listed() };
    assert_eq!(step(&mut record, Event::ProxySeen(proxy(1))), []);
    record.reach = Reach::Fine;
    assert_eq!(step(&mut record, Event::Look), [Action::Create]);
}

#[test]
fn a_proxy_is_kept_from_eviction_once_it_is_time() {
    let mut record = settled();
    let evictable = ProxyView { health: running(), evictable: true, ..proxy(6) };
    assert!(!step(&mut record, Event::ProxySeen(evictable.clone())).contains(&Action::Lift));
    assert_eq!(step(&mut record, Event::LiftDue)[0], Action::Lift);
    step(&mut record, Event::Answer(Answer::Conflict(6)));
    assert!(!step(&mut record, Event::Look).contains(&Action::Lift), "not before the watch has told what has changed");
    let newer = ProxyView { version: 7, ..evictable };
    assert_eq!(step(&mut record, Event::ProxySeen(newer.clone()))[0], Action::Lift);
    let lifted = ProxyView { version: 8, evictable: false, ..newer };
    assert!(!step(&mut record, Event::Answer(Answer::Lifted(lifted))).contains(&Action::Lift));
}

#[test]
fn a_pod_without_a_site_gets_one_before_anything_is_created() {
    let mut record = listed();
    assert_eq!(step(&mut record, Event::ProxySeen(ProxyView { site: None, ..proxy(1) })), [Action::Place]);
    assert_eq!(
        step(&mut record, Event::Answer(Answer::Placed(ProxyView { site: Some(1), ..proxy(2) }))),
        [Action::Create]
    );
}

#[test]
fn a_pod_moves_only_after_its_instance_has_gone() {
    let mut record = listed();
    step(&mut record, Event::ProxySeen(proxy(1)));
    step(&mut record, Event::Answer(Answer::Created(instance("i", 1))));
    assert_eq!(step(&mut record, Event::Move), [delete("i", None)]);
    step(&mut record, Event::InstanceSeen(InstanceView { deleting: Some(30), ..instance("i", 2) }));
    assert_eq!(step(&mut record, Event::Look), []);
    assert_eq!(step(&mut record, Event::InstanceGone("i".into())), [Action::Place]);
    let placed = ProxyView { site: Some(1), ..proxy(2) };
    assert_eq!(step(&mut record, Event::Answer(Answer::Placed(placed))), [Action::Create]);
}

#[test]
fn a_pod_that_has_started_does_not_move() {
    let mut record = settled();
    step(&mut record, Event::InstanceSeen(InstanceView { started: true, health: running(), ..instance("i", 6) }));
    assert_eq!(step(&mut record, Event::Move), [mirror(false)]);
}

#[test]
fn an_instance_where_its_proxy_does_not_say_goes_before_another_starts() {
    let mut record = listed();
    step(&mut record, Event::InstanceSeen(instance("i", 1)));
    let actions = step(&mut record, Event::ProxySeen(ProxyView { site: Some(1), ..proxy(1) }));
    assert_eq!(actions[0], delete("i", None));
    assert!(!actions.contains(&Action::Create));
    let nowhere = ProxyView { site: Some(crate::kubelet::sites::NOWHERE), ..proxy(2) };
    assert!(!step(&mut record, Event::ProxySeen(nowhere)).iter().any(|action| matches!(action, Action::Delete { .. })));
}

#[test]
fn a_status_that_the_host_refuses_is_asked_for_again_only_after_a_change() {
    let mut record = settled();
    let news = || InstanceView { health: Health { ready: false, ..running() }, ..instance("i", 6) };
    assert_eq!(step(&mut record, Event::InstanceSeen(news())), [mirror(true)]);
    assert_eq!(step(&mut record, Event::Answer(Answer::StatusRefused)), []);
    for time in [Event::Look, Event::Retry, Event::ReportDue] {
        assert_eq!(step(&mut record, time), []);
    }
    assert_eq!(step(&mut record, Event::InstanceSeen(InstanceView { version: 7, ..news() })), [mirror(true)]);
}

#[test]
fn an_end_that_the_host_refuses_to_show_keeps_no_proxy() {
    let mut record = settled();
    step(&mut record, Event::ProxySeen(ProxyView { health: running(), deleting: Some(1), ..proxy(6) }));
    let actions = step(&mut record, Event::InstanceGone("i".into()));
    assert_eq!(actions, [Action::Report { evidence: Evidence::Ended, urgent: true }]);
    assert_eq!(step(&mut record, Event::Answer(Answer::StatusRefused)), [Action::DeleteProxy]);
}

/// What follows once the site where the proxy says is known to have nothing, which whoever has its list concludes.
fn listed_there(record: &mut Record) -> Vec<Action> {
    assert_eq!(record.instance, Presence::Unknown);
    record.instance = Presence::Absent;
    step(record, Event::Look)
}

/// A pod that has moved to site 1, where an instance of a smaller version runs.
fn moved() -> Record {
    let mut record = listed();
    step(&mut record, Event::ProxySeen(ProxyView { site: Some(1), health: running(), ..proxy(1) }));
    step(&mut record, Event::InstanceSeen(InstanceView { site: 1, health: running(), ..instance("new", 5) }));
    record
}

#[test]
fn the_end_of_one_that_is_astray_tells_nothing_of_where_the_pod_should_be() {
    // A process begins; the site that counts is not listed yet, and the other one is.
    let mut record = Record::default();
    let proxy = ProxyView { site: Some(1), deleting: Some(30), health: running(), ..proxy(1) };
    step(&mut record, Event::ProxySeen(proxy));
    let astray = InstanceView { health: running(), ..instance("old", 4) };
    assert_eq!(
        step(&mut record, Event::InstanceSeen(astray.clone())),
        [delete("old", Some(30))],
        "it is no news for home"
    );
    let over = InstanceView { version: 5, deleting: Some(30), health: ended(Phase::Failed), ..astray };
    assert_eq!(step(&mut record, Event::InstanceSeen(over)), []);
    assert_eq!(step(&mut record, Event::InstanceGone("old".into())), [], "the proxy waits for the list");
    assert_eq!((&record.instance, &record.memo.ended), (&Presence::Unknown, &None));
    step(&mut record, Event::InstanceSeen(InstanceView { site: 1, health: running(), ..instance("new", 1) }));
    let stop = Action::Delete { instance: "new".into(), site: 1, grace: Some(30) };
    assert_eq!(step(&mut record, Event::Look)[0], stop);

    // The same, when its end is heard of before the proxy is.
    let mut record = Record::default();
    step(&mut record, Event::InstanceSeen(instance("old", 4)));
    step(&mut record, Event::InstanceGone("old".into()));
    assert_eq!(record.instance, Presence::Unknown);
    assert_eq!(step(&mut record, Event::InstanceGone("older".into())), []);
    assert_eq!(record.instance, Presence::Unknown, "nor is one told of that was never seen");
}

#[test]
fn what_a_late_request_has_started_where_the_pod_was_before_is_stopped() {
    for version in [4, 6] {
        let mut record = moved();
        let actions = step(&mut record, Event::InstanceSeen(instance("old", version)));
        assert_eq!(actions, [mirror(false), delete("old", None)], "versions of two servers are not compared");
        step(&mut record, Event::InstanceGone("old".into()));
        assert_eq!((record.elsewhere, record.instance.there().map(|known| &*known.uid)), (None, Some("new")));
    }
}

#[test]
fn it_is_stopped_whichever_of_the_two_was_seen_first() {
    let mut record = listed();
    step(&mut record, Event::ProxySeen(ProxyView { site: Some(1), health: running(), ..proxy(1) }));
    step(&mut record, Event::InstanceSeen(instance("old", 9)));
    let new = InstanceView { site: 1, health: running(), ..instance("new", 5) };
    assert_eq!(step(&mut record, Event::InstanceSeen(new)), [mirror(false), delete("old", None)]);
    let actions = step(&mut record, Event::Answer(Answer::Stopping("old".into(), 0)));
    assert_eq!(actions, [mirror(false)], "asked once");
}

#[test]
fn a_proxy_goes_after_both_of_its_instances() {
    let mut record = moved();
    step(&mut record, Event::InstanceSeen(instance("old", 9)));
    let leaving = ProxyView { site: Some(1), health: running(), deleting: Some(30), ..proxy(2) };
    step(&mut record, Event::ProxySeen(leaving));
    let actions = step(&mut record, Event::InstanceGone("new".into()));
    assert_eq!(actions[0], delete("old", Some(30)));
    assert_eq!(step(&mut record, Event::InstanceGone("old".into())), [], "it says nothing of the other site");
    assert_eq!(listed_there(&mut record), [Action::Report { evidence: Evidence::Ended, urgent: true }]);
}

#[test]
fn both_instances_of_a_proxy_that_has_gone_are_stopped() {
    let mut record = moved();
    step(&mut record, Event::InstanceSeen(instance("old", 9)));
    let new = Action::Delete { instance: "new".into(), site: 1, grace: None };
    assert_eq!(step(&mut record, Event::ProxyGone), [new, delete("old", None)]);
    step(&mut record, Event::InstanceGone("new".into()));
    assert_eq!(step(&mut record, Event::InstanceGone("old".into())), [Action::Forget]);
}

#[test]
fn a_pod_that_is_deleted_before_a_site_was_chosen_just_goes() {
    let mut record = listed();
    step(&mut record, Event::ProxySeen(ProxyView { site: None, ..proxy(1) }));
    step(&mut record, Event::Answer(Answer::Conflict(1)));
    let leaving = ProxyView { site: None, deleting: Some(30), ..proxy(2) };
    let actions = step(&mut record, Event::ProxySeen(leaving.clone()));
    assert_eq!(actions, [Action::Report { evidence: Evidence::Ended, urgent: true }], "there is no site to be asked");
    let over = ProxyView { version: 3, health: ended(Phase::Failed), ..leaving };
    assert_eq!(step(&mut record, Event::Answer(Answer::Reported(over))), [Action::DeleteProxy]);
}

#[test]
fn nobody_is_asked_at_a_site_that_is_no_more() {
    let mut record = listed();
    let leaving = ProxyView { site: Some(NOWHERE), deleting: Some(30), ..proxy(1) };
    assert_eq!(step(&mut record, Event::ProxySeen(leaving)), []);
}

#[test]
fn a_start_that_home_has_known_of_counts_even_when_home_shows_the_next_instance() {
    let mut record = listed();
    step(&mut record, Event::ProxySeen(ProxyView { once: true, ..proxy(1) }));
    step(&mut record, Event::Answer(Answer::Created(instance("i", 1))));
    // The report of a process that is no more arrives late, and is written over.
    step(&mut record, Event::ProxySeen(ProxyView { once: true, replaceable: false, health: running(), ..proxy(2) }));
    step(&mut record, Event::Answer(Answer::Reported(ProxyView { once: true, ..proxy(3) })));
    assert_eq!(step(&mut record, Event::InstanceGone("i".into())), [Action::FindInstance]);
    let actions = step(&mut record, Event::Answer(Answer::InstanceMissing));
    assert_eq!(actions, [Action::Report { evidence: Evidence::Lost, urgent: true }]);
}

#[test]
fn a_doubt_about_one_site_outlasts_what_is_seen_at_another() {
    let mut record = listed();
    step(&mut record, Event::ProxySeen(ProxyView { site: Some(1), ..proxy(1) }));
    step(&mut record, Event::InstanceSeen(instance("late", 1)));
    step(&mut record, Event::Answer(Answer::Doubtful(Some(1))));
    step(&mut record, Event::InstanceSeen(InstanceView { deleting: Some(30), ..instance("late", 2) }));
    step(&mut record, Event::ProxySeen(ProxyView { site: Some(1), deleting: Some(30), ..proxy(2) }));
    step(&mut record, Event::InstanceGone("late".into()));
    assert_eq!(listed_there(&mut record), [Action::FindInstance]);
}

#[test]
fn what_an_answer_has_told_of_is_looked_for_before_anything_is_made_elsewhere() {
    let doubtful = |proxy: ProxyView| {
        let mut record = listed();
        step(&mut record, Event::ProxySeen(ProxyView { version: 1, deleting: None, ..proxy.clone() }));
        step(&mut record, Event::ProxySeen(proxy));
        assert_eq!(step(&mut record, Event::Answer(Answer::Doubtful(Some(0)))), [Action::FindElsewhere(0)]);
        record
    };
    let moved = ProxyView { site: Some(1), ..proxy(2) };
    let mut record = doubtful(moved.clone());
    assert_eq!(step(&mut record, Event::Answer(Answer::StopFailed)), [Action::RetryAfter(1)], "it is not known yet");
    assert_eq!(step(&mut record, Event::Retry), [Action::FindElsewhere(0)]);
    let actions = step(&mut record, Event::Answer(Answer::Created(instance("i", 1))));
    assert_eq!(actions[0], delete("i", None), "it is there, and goes first");
    step(&mut record, Event::InstanceGone("i".into()));
    assert_eq!(listed_there(&mut record), [Action::Create]);

    let mut record = doubtful(moved.clone());
    assert_eq!(step(&mut record, Event::Answer(Answer::NotElsewhere(0))), [Action::Create], "it has gone since");

    let mut record = doubtful(ProxyView { deleting: Some(30), ..moved });
    let actions = step(&mut record, Event::Answer(Answer::NotElsewhere(0)));
    assert_eq!(actions, [Action::FindInstance], "nor does the proxy go before");
}

#[test]
fn a_choice_that_was_found_is_confirmed_before_anything_is_made() {
    let found = ProxyView { chosen: true, ..proxy(3) };
    let mut record = listed();
    assert_eq!(step(&mut record, Event::ProxySeen(found.clone())), [Action::Fence]);
    assert_eq!(step(&mut record, Event::ProxySeen(found.clone())), [Action::Fence], "no news");
    let confirmed = Event::Answer(Answer::Placed(ProxyView { version: 4, ..found.clone() }));
    assert_eq!(step(&mut record, confirmed), [Action::Create]);

    let mut record = listed();
    step(&mut record, Event::ProxySeen(found.clone()));
    let other = ProxyView { version: 4, site: Some(1), ..found };
    assert_eq!(step(&mut record, Event::ProxySeen(other)), [Action::Create], "whatever was sent before is outdated");

    let mut record = listed();
    step(&mut record, Event::ProxySeen(ProxyView { site: None, ..proxy(3) }));
    let own = Event::Answer(Answer::Placed(ProxyView { chosen: true, ..proxy(4) }));
    assert_eq!(step(&mut record, own), [Action::Create], "its own choice is written once");
}
