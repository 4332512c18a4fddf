use super::*;
use crate::kubelet::server::PodDirectory;
use serde_json::json;

fn pod(uid: &str, version: u64) -> PodDocument {
    let metadata = json!({"namespace": "ns", "name": "web-0", "uid": uid, "resourceVersion": version.to_string()});
    PodDocument::new(serde_json::from_value(metadata).unwrap(), json!({}), json!({}))
}

fn instance(uid: &str, instance: &str) -> ProviderPod {
    ProviderPod {
        remarks: vec![],
        key: PodKey { namespace: "ns".into(), name: "web-0".into(), uid: uid.into() },
        instance: Instance { uid: instance.into(), version: 1, sent: 0, deleting: None, obstacle: None },
        status: json!({"phase": "Running"}),
        annotations: std::collections::BTreeMap::new(),
    }
}

fn uid(name: &str) -> Uid {
    name.into()
}

fn listed() -> Table {
    let table = Table::default();
    for side in [Side::Host, Side::Site(0)] {
        table.listing(side);
        table.listed(side);
    }
    table
}

#[test]
fn a_pod_that_came_between_the_lists_is_decided_when_both_are_complete() {
    let table = Table::default();
    table.listing(Side::Host);
    table.proxy_seen(&pod("a", 1), 0, Some(0));
    table.listed(Side::Host);
    assert!(!table.step(&uid("a"), Event::Look).contains(&Action::Create));
    table.listing(Side::Site(0));
    assert_eq!(table.listed(Side::Site(0)), [(uid("a"), vec![])]);
    assert_eq!(table.step(&uid("a"), Event::Look), [Action::Create]);
}

#[test]
fn an_instance_may_be_listed_before_its_proxy() {
    let table = Table::default();
    table.listing(Side::Site(0));
    table.instance_seen(0, instance("a", "i"));
    table.instance_seen(0, instance("orphan", "j"));
    table.listed(Side::Site(0));
    for name in ["a", "orphan"] {
        assert_eq!(table.step(&uid(name), Event::Look), [], "nobody knows its proxy");
    }
    table.listing(Side::Host);
    table.proxy_seen(&pod("a", 1), 0, Some(0));
    assert!(!table.all_listed());
    table.listed(Side::Host);
    assert!(table.all_listed() && table.instance(&uid("a")).is_some());
    assert!(matches!(*table.step(&uid("a"), Event::Look), [Action::Report { .. }]));
    assert_eq!(table.step(&uid("orphan"), Event::Look), [Action::FindProxy]);
}

#[test]
fn where_two_call_themselves_instances_of_a_proxy_that_nobody_knows_the_site_is_listed_anew() {
    let table = Table::default();
    table.instance_seen(0, instance("a", "theirs"));
    assert!(!table.contested(0));
    let mut ours = instance("a", "ours");
    ours.key.name = "web-1".into();
    table.instance_seen(0, ours.clone());
    assert!(table.contested(0) && !table.contested(0) && !table.contested(1));
    let mut proxy = pod("a", 1);
    proxy.metadata.name = Some("web-1".into());
    table.listing(Side::Host);
    table.proxy_seen(&proxy, 0, Some(0));
    assert!(table.instance(&uid("a")).is_none(), "whoever came first was believed");
    table.listed(Side::Host);
    table.instance_seen(0, ours);
    table.instance_seen(0, instance("a", "theirs"));
    assert!(!table.contested(0), "from now on nobody is");
    assert_eq!(&*table.instance(&uid("a")).unwrap().uid, "ours");
}

#[test]
fn those_that_wait_for_an_instance_come_first() {
    let table = listed();
    table.listing(Side::Site(0));
    let names: Vec<_> = (0..40).map(|index| format!("pod-{index}")).collect();
    for (index, name) in names.iter().enumerate() {
        table.proxy_seen(&pod(name, 1), 0, Some(0));
        if index % 2 == 0 {
            table.instance_seen(0, instance(name, "i"));
        }
    }
    let listed = table.listed(Side::Site(0));
    let has = |uid: &Uid| table.instance(uid).is_some();
    assert_eq!(listed.len(), names.len());
    assert!(listed[..20].iter().all(|(uid, _)| !has(uid)) && listed[20..].iter().all(|(uid, _)| has(uid)));
}

#[test]
fn what_a_new_list_does_not_show_is_gone() {
    let table = listed();
    table.instance_seen(0, instance("orphan", "i"));
    table.listing(Side::Site(0));
    assert_eq!(table.listed(Side::Site(0)), [(uid("orphan"), vec![Action::Forget])]);
    assert_eq!(table.step(&uid("orphan"), Event::Look), [Action::Forget]);
}

#[test]
fn what_a_list_does_not_show_stays_while_it_is_looked_for() {
    let table = listed();
    table.proxy_seen(&pod("a", 1), 0, Some(0));
    table.instance_seen(0, instance("a", "i"));
    assert!(table.unseen(0).is_empty(), "it was shown since the last list");
    table.listing(Side::Site(0));
    assert_eq!(table.unseen(0), [(instance("a", "i").key, "i".into())]);
    table.listed(Side::Site(0));
    assert!(table.has(&uid("a"), "i") && table.instance(&uid("a")).is_some());
    assert!(table.unseen(0).is_empty(), "somebody looks for it");
    table.instance_gone(&instance("a", "i").key, &"i".into());
    assert!(!table.has(&uid("a"), "i"));
}

#[test]
fn what_was_made_during_a_list_is_not_gone_with_it() {
    let table = listed();
    table.proxy_seen(&pod("a", 1), 0, Some(0));
    table.listing(Side::Site(0));
    table.made(&uid("a"), instance("a", "i"), table.asking(&uid("a")), Answer::Created);
    table.listed(Side::Site(0));
    assert!(table.instance(&uid("a")).is_some());
}

#[test]
fn what_was_asked_for_before_a_list_may_have_gone_with_it() {
    let table = listed();
    table.proxy_seen(&pod("a", 1), 0, Some(0));
    let asked = table.asking(&uid("a"));
    table.listing(Side::Site(0));
    table.made(&uid("a"), instance("a", "i"), asked, Answer::Created);
    table.listed(Side::Site(0));
    assert_eq!(table.step(&uid("a"), Event::Look), [Action::Create], "its end would not be told");
    // The list may be complete by then.
    table.proxy_seen(&pod("b", 1), 0, Some(0));
    let asked = table.asking(&uid("b"));
    table.listing(Side::Site(0));
    table.listed(Side::Site(0));
    table.made(&uid("b"), instance("b", "j"), asked, Answer::Created);
    assert!(table.instance(&uid("b")).is_none(), "no list would show that it has gone");
}

#[test]
fn a_record_is_not_forgotten_while_its_proxy_may_be_in_a_list() {
    let table = listed();
    table.instance_seen(0, instance("a", "i"));
    table.listing(Side::Host);
    table.instance_gone(&instance("a", "i").key, &"i".into());
    assert_eq!(table.step(&uid("a"), Event::Look), []);
    assert_eq!(table.listed(Side::Host), [(uid("a"), vec![])]);
    assert_eq!(table.step(&uid("a"), Event::Look), [Action::Forget]);
}

#[test]
fn a_proxy_found_missing_is_forgotten_with_the_next_list() {
    let table = listed();
    table.instance_seen(0, instance("a", "i"));
    table.step(&uid("a"), Event::Answer(Answer::ProxyMissing));
    table.instance_gone(&instance("a", "i").key, &"i".into());
    assert_eq!(table.step(&uid("a"), Event::Look), []);
    table.listing(Side::Host);
    assert_eq!(table.listed(Side::Host), [(uid("a"), vec![Action::Forget])]);
}

#[test]
fn an_empty_list_of_the_host_does_not_hide_an_unfinished_one() {
    let table = listed();
    table.listing(Side::Host);
    table.instance_seen(0, instance("a", "i"));
    assert_eq!(table.step(&uid("a"), Event::Look), [], "its proxy may still be listed");
}

#[test]
fn the_namesake_of_what_went_is_told() {
    let table = listed();
    table.instance_seen(0, instance("old", "i"));
    table.proxy_seen(&pod("new", 2), 0, Some(0));
    let (gone, namesake, _) = table.instance_gone(&instance("old", "i").key, &"i".into());
    assert_eq!((gone, namesake), (uid("old"), Some(uid("new"))));
}

#[test]
fn a_version_that_is_known_is_not_read_again() {
    let table = listed();
    let (first, second) = (pod("a", 1), pod("a", 2));
    assert_eq!(table.proxy_known(&first), None);
    table.proxy_seen(&first, 7, Some(0));
    assert_eq!((table.proxy_known(&first), table.proxy_known(&second)), (Some(uid("a")), None));
    // A list shows it so as well, and it has not gone with it.
    table.listing(Side::Host);
    table.proxy_known(&first);
    table.listed(Side::Host);
    assert_eq!(table.step(&uid("a"), Event::Look), [Action::Create]);
    // Whichever of watch and answer is first.
    assert_eq!(table.reported_known(&uid("a"), 2, (1, None)), None);
    table.proxy_seen(&second, 7, Some(0));
    assert!(table.reported_known(&uid("a"), 2, (1, Some(3))).is_some());
    let accepted = table.snapshot(&uid("a")).unwrap();
    assert_eq!(accepted.accepted, Some((1, accepted.home.digest, Some(3))));
}

#[test]
fn a_known_version_is_read_again_where_its_document_is_needed() {
    let table = listed();
    table.proxy_seen(&pod("a", 1), 0, Some(0));
    table.made(&uid("a"), instance("a", "i"), table.asking(&uid("a")), Answer::Created);
    assert!(table.proxy_known(&pod("a", 1)).is_some() && table.body(&uid("a")).is_none());
    table.instance_gone(&instance("a", "i").key, &"i".into());
    assert_eq!(table.proxy_known(&pod("a", 1)), None);
    let mut over = pod("a", 2);
    over.status["phase"] = json!("Failed");
    table.proxy_seen(&over, 0, Some(0));
    table.step(&uid("a"), Event::Answer(Answer::ProxyDeleted));
    // A watch that is behind tells of the time before: it is not deleted once more.
    assert!(table.proxy_known(&over).is_some());
    assert_eq!(table.entries.get("a").unwrap().record.proxy.there().unwrap().deleting, Some(0));
    let mut other = pod("a", 2);
    other.metadata.name = Some("web-1".into());
    assert_eq!(table.proxy_known(&other), None, "one that only has its UID");
}

#[test]
fn the_document_of_what_has_started_is_kept_only_if_it_has_no_instance() {
    let table = Table::default();
    let mut running = pod("a", 1);
    running.status["containerStatuses"] = json!([{"name": "c", "state": {"running": {}}}]);
    table.listing(Side::Host);
    table.proxy_seen(&running, 0, Some(0));
    assert!(table.body(&uid("a")).is_none(), "thousands of them are listed before their instances are");
    table.listed(Side::Host);
    table.listing(Side::Site(0));
    table.listed(Side::Site(0));
    assert_eq!(table.step(&uid("a"), Event::Look), [Action::Create]);
    assert_eq!(table.proxy_known(&running), None);
    table.proxy_seen(&running, 0, Some(0));
    assert!(table.body(&uid("a")).is_some(), "it was read again");
}

#[test]
fn the_document_is_kept_only_until_an_instance_is_made_of_it() {
    let table = listed();
    table.proxy_seen(&pod("a", 1), 0, Some(0));
    assert!(table.body(&uid("a")).is_some());
    table.made(&uid("a"), instance("a", "i"), table.asking(&uid("a")), Answer::Created);
    assert!(table.body(&uid("a")).is_none());
    table.proxy_seen(&pod("a", 2), 5, Some(0));
    assert!(table.body(&uid("a")).is_some(), "an update will need it");
}

#[test]
fn forgetting_does_not_take_the_name_from_a_successor() {
    let table = listed();
    table.proxy_seen(&pod("old", 1), 0, Some(0));
    table.proxy_seen(&pod("new", 2), 0, Some(0));
    table.proxy_gone(&pod("old", 1).key());
    table.forget(&uid("old"));
    assert_eq!(table.find("ns", "web-0").unwrap().key.uid, "new");
    assert_eq!(table.len(), 1);
}

#[test]
fn an_answer_that_is_overtaken_by_an_end_counts_for_nothing() {
    let table = Table::default();
    for side in [Side::Host, Side::Site(0)] {
        table.listing(side);
        table.listed(side);
    }
    let pod = uid("a");
    table.instance_seen(0, instance("a", "first"));
    let asked = table.asking(&pod);
    for one in ["first", "second"] {
        table.instance_gone(&instance("a", one).key, &Arc::from(one));
    }
    table.made(&pod, instance("a", "first"), asked, Answer::Created);
    assert!(table.instance(&pod).is_none(), "only the last tombstone is kept, and this answer is older");
}

#[test]
fn a_choice_says_whose_list_counts() {
    let table = Table::new(2, false);
    table.listing(Side::Host);
    for (name, site) in [("a", Some(0)), ("b", Some(1)), ("new", None)] {
        table.proxy_seen(&pod(name, 1), 0, site);
    }
    table.listed(Side::Host);
    table.listing(Side::Site(0));
    table.listed(Side::Site(0));
    assert_eq!(table.step(&uid("a"), Event::Look), [Action::Create], "its site is listed");
    assert!(!table.step(&uid("b"), Event::Look).contains(&Action::Create), "its site is out of reach");
    assert_eq!(table.step(&uid("new"), Event::Look), [Action::Place], "it can be nowhere");
}

#[test]
fn a_pod_of_a_time_without_choices_is_looked_for_everywhere() {
    let table = Table::new(2, true);
    table.listing(Side::Host);
    table.proxy_seen(&pod("a", 1), 0, None);
    table.listed(Side::Host);
    table.listing(Side::Site(0));
    table.listed(Side::Site(0));
    assert!(!table.step(&uid("a"), Event::Look).contains(&Action::Place));
    table.listing(Side::Site(1));
    table.listed(Side::Site(1));
    assert_eq!(table.step(&uid("a"), Event::Look), [Action::Place]);
}

#[test]
fn a_silent_site_is_silent_for_its_own_pods_only() {
    let table = Table::new(2, false);
    table.listing(Side::Host);
    for (name, site) in [("a", 0), ("b", 1)] {
        table.proxy_seen(&pod(name, 1), 0, Some(site));
    }
    table.listed(Side::Host);
    for site in [0, 1] {
        table.listing(Side::Site(site));
        table.listed(Side::Site(site));
    }
    assert_eq!(table.set_reach(0, Reach::Silent), [uid("a")]);
    assert!(!table.step(&uid("a"), Event::Look).contains(&Action::Create));
    assert_eq!(table.step(&uid("b"), Event::Look), [Action::Create]);
}

#[test]
fn the_list_of_a_site_says_nothing_of_another() {
    let table = Table::new(2, false);
    table.listing(Side::Host);
    table.proxy_seen(&pod("a", 1), 0, Some(1));
    table.listed(Side::Host);
    table.listing(Side::Site(1));
    table.instance_seen(1, instance("a", "i"));
    table.listed(Side::Site(1));
    table.listing(Side::Site(0));
    table.listed(Side::Site(0));
    assert!(table.instance(&uid("a")).is_some());
    assert_eq!(table.site(&uid("a")), Some(1));
}

#[test]
fn what_cannot_be_read_is_not_gone() {
    let table = listed();
    table.proxy_seen(&pod("a", 1), 0, Some(0));
    table.instance_seen(0, instance("a", "i"));
    for side in [Side::Host, Side::Site(0)] {
        table.listing(side);
        table.proxy_unclear(&PodKey { namespace: "ns".into(), name: "web-0".into(), uid: String::new() });
        table.instance_unclear(0, &uid("i"));
        table.listed(side);
        assert!(table.snapshot(&uid("a")).is_some() && table.instance(&uid("a")).is_some(), "{side:?}");
    }
    table.listing(Side::Host);
    table.listed(Side::Host);
    assert!(table.snapshot(&uid("a")).is_none());
}

#[test]
fn a_list_of_one_site_says_nothing_of_an_instance_at_another() {
    let table = Table::new(2, false);
    for side in [Side::Host, Side::Site(0), Side::Site(1)] {
        table.listing(side);
        table.listed(side);
    }
    table.proxy_seen(&pod("a", 1), 0, Some(1));
    table.instance_seen(1, instance("a", "new"));
    table.instance_seen(0, instance("a", "old"));
    table.listing(Side::Site(0));
    table.listed(Side::Site(0));
    assert_eq!(table.instance(&uid("a")).map(|known| known.uid), Some("new".into()), "only the old one is gone");
    table.instance_seen(0, instance("a", "late"));
    table.listing(Side::Site(1));
    table.listed(Side::Site(1));
    assert_eq!(table.instance(&uid("a")).map(|known| known.uid), Some("late".into()), "and now only the new one");
}

/// An instance with this phase.
fn said(name: &str, phase: &str) -> ProviderPod {
    ProviderPod { status: json!({"phase": phase}), ..instance("a", name) }
}

#[test]
fn the_instance_that_comes_to_count_speaks_for_itself() {
    let table = Table::new(2, false);
    for side in [Side::Host, Side::Site(0), Side::Site(1)] {
        table.listing(side);
        table.listed(side);
    }
    let phase = || table.snapshot(&uid("a")).unwrap().status["phase"].clone();
    table.proxy_seen(&pod("a", 1), 0, None);
    table.instance_seen(1, said("old", "Pending"));
    table.instance_seen(0, said("new", "Running"));
    assert_eq!(phase(), "Pending", "nothing says yet which of them counts");
    let changed = |phase| ProviderPod {
        instance: Instance { version: 2, ..instance("a", "old").instance },
        ..said("old", phase)
    };
    table.instance_seen(1, changed("Unknown"));
    assert_eq!(phase(), "Unknown");
    table.proxy_seen(&pod("a", 2), 0, Some(0));
    assert_eq!(phase(), "Running", "the proxy says so");
    table.instance_gone(&instance("a", "new").key, &"new".into());
    assert_eq!(phase(), "Unknown", "it is the only one");
    table.instance_gone(&instance("a", "old").key, &"old".into());
    assert_eq!(phase(), "Unknown", "its last word");
}

#[test]
fn what_was_made_where_the_pod_no_longer_belongs_is_stopped_before_anything_is_made_elsewhere() {
    let table = Table::new(2, false);
    for side in [Side::Host, Side::Site(0), Side::Site(1)] {
        table.listing(side);
        table.listed(side);
    }
    table.proxy_seen(&pod("a", 1), 0, Some(0));
    let asked = table.asking(&uid("a"));
    table.proxy_seen(&pod("a", 2), 0, Some(1));
    let actions = table.made(&uid("a"), instance("a", "i"), asked, Answer::Created);
    assert_eq!(actions[0], Action::Delete { instance: "i".into(), site: 0, grace: None });
}

#[test]
fn that_one_site_has_nothing_says_nothing_of_another() {
    let table = Table::new(2, false);
    for side in [Side::Host, Side::Site(0), Side::Site(1)] {
        table.listing(side);
        table.listed(side);
    }
    let mut leaving = pod("a", 1);
    leaving.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    table.proxy_seen(&leaving, 0, Some(0));
    assert_eq!(table.step(&uid("a"), Event::Look), [Action::FindInstance]);
    let asked = table.asking(&uid("a"));
    leaving.metadata.resource_version = Some("2".into());
    table.proxy_seen(&leaving, 0, Some(1));
    assert_eq!(table.missing(&uid("a"), asked), [Action::FindInstance], "now the other one");
}

/// A pod at a site that has somebody else's UID on it.
fn forged(uid: &str) -> ProviderPod {
    let key = PodKey { namespace: "other".into(), ..instance(uid, "forged").key };
    ProviderPod { key, ..instance(uid, "forged") }
}

#[test]
fn a_pod_elsewhere_with_the_uid_of_a_proxy_is_nothing_to_it() {
    let table = listed();
    table.proxy_seen(&pod("a", 1), 0, Some(0));
    table.instance_seen(0, instance("a", "i"));
    table.instance_seen(0, forged("a"));
    assert_eq!(&*table.instance(&uid("a")).unwrap().uid, "i");
    table.instance_gone(&forged("a").key, &"i".into());
    assert!(table.instance(&uid("a")).is_some(), "nor can it take it away");

    table.instance_seen(0, forged("b"));
    table.proxy_seen(&pod("b", 1), 0, Some(0));
    assert_eq!(table.key(&uid("b")).unwrap().namespace, "ns");
    assert!(table.instance(&uid("b")).is_none());
    assert_eq!(table.step(&uid("b"), Event::Look), [Action::Create]);
}
