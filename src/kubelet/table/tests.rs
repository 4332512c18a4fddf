use super::*;
use serde_json::json;

fn pod(uid: &str, version: u64) -> PodDocument {
    let metadata = json!({"namespace": "ns", "name": "web-0", "uid": uid, "resourceVersion": version.to_string()});
    PodDocument::new(serde_json::from_value(metadata).unwrap(), json!({}), json!({}))
}

fn instance(uid: &str, instance: &str) -> ProviderPod {
    ProviderPod {
        key: PodKey { namespace: "ns".into(), name: "web-0".into(), uid: uid.into() },
        instance: Instance { uid: instance.into(), version: 1, sent: 0, deleting: None, obstacle: None },
        status: json!({"phase": "Running"}),
    }
}

fn uid(name: &str) -> Uid {
    name.into()
}

fn listed() -> Table {
    let table = Table::default();
    for side in [Side::Host, Side::Provider] {
        table.listing(side);
        table.listed(side);
    }
    table
}

#[test]
fn a_pod_that_came_between_the_lists_is_decided_when_both_are_complete() {
    let table = Table::default();
    table.listing(Side::Host);
    table.proxy_seen(pod("a", 1), 0);
    table.listed(Side::Host);
    assert!(!table.step(&uid("a"), Event::Look).contains(&Action::Create));
    table.listing(Side::Provider);
    assert_eq!(table.listed(Side::Provider), [(uid("a"), vec![])]);
    assert_eq!(table.step(&uid("a"), Event::Look), [Action::Create]);
}

#[test]
fn what_a_new_list_does_not_show_is_gone() {
    let table = listed();
    table.instance_seen(instance("orphan", "i"));
    table.listing(Side::Provider);
    assert_eq!(table.listed(Side::Provider), [(uid("orphan"), vec![Action::Forget])]);
    assert_eq!(table.step(&uid("orphan"), Event::Look), [Action::Forget]);
}

#[test]
fn what_was_made_during_a_list_is_not_gone_with_it() {
    let table = listed();
    table.proxy_seen(pod("a", 1), 0);
    table.listing(Side::Provider);
    table.made(&uid("a"), instance("a", "i"), table.asking(&uid("a")), Answer::Created);
    table.listed(Side::Provider);
    assert!(table.instance(&uid("a")).is_some());
}

#[test]
fn what_was_asked_for_before_a_list_may_have_gone_with_it() {
    let table = listed();
    table.proxy_seen(pod("a", 1), 0);
    let asked = table.asking(&uid("a"));
    table.listing(Side::Provider);
    table.made(&uid("a"), instance("a", "i"), asked, Answer::Created);
    table.listed(Side::Provider);
    assert_eq!(table.step(&uid("a"), Event::Look), [Action::Create], "its end would not be told");
}

#[test]
fn a_record_is_not_forgotten_while_its_proxy_may_be_in_a_list() {
    let table = listed();
    table.instance_seen(instance("a", "i"));
    table.listing(Side::Host);
    table.instance_gone(&instance("a", "i").key, &"i".into());
    assert_eq!(table.step(&uid("a"), Event::Look), []);
    assert_eq!(table.listed(Side::Host), [(uid("a"), vec![])]);
    assert_eq!(table.step(&uid("a"), Event::Look), [Action::Forget]);
}

#[test]
fn a_proxy_found_missing_is_forgotten_with_the_next_list() {
    let table = listed();
    table.instance_seen(instance("a", "i"));
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
    table.instance_seen(instance("a", "i"));
    assert_eq!(table.step(&uid("a"), Event::Look), [], "its proxy may still be listed");
}

#[test]
fn the_namesake_of_what_went_is_told() {
    let table = listed();
    table.instance_seen(instance("old", "i"));
    table.proxy_seen(pod("new", 2), 0);
    let (gone, namesake, _) = table.instance_gone(&instance("old", "i").key, &"i".into());
    assert_eq!((gone, namesake), (uid("old"), Some(uid("new"))));
}

#[test]
fn the_document_is_kept_only_until_an_instance_is_made_of_it() {
    let table = listed();
    table.proxy_seen(pod("a", 1), 0);
    assert!(table.body(&uid("a")).is_some());
    table.made(&uid("a"), instance("a", "i"), table.asking(&uid("a")), Answer::Created);
    assert!(table.body(&uid("a")).is_none());
    table.proxy_seen(pod("a", 2), 5);
    assert!(table.body(&uid("a")).is_some(), "an update will need it");
}

#[test]
fn forgetting_does_not_take_the_name_from_a_successor() {
    let table = listed();
    table.proxy_seen(pod("old", 1), 0);
    table.proxy_seen(pod("new", 2), 0);
    table.proxy_gone(&pod("old", 1).key());
    table.forget(&uid("old"));
    assert_eq!(table.find("ns", "web-0").unwrap().key.uid, "new");
    assert_eq!(table.len(), 1);
}

#[test]
fn an_answer_that_is_overtaken_by_an_end_counts_for_nothing() {
    let table = Table::default();
    for side in [Side::Host, Side::Provider] {
        table.listing(side);
        table.listed(side);
    }
    let pod = uid("a");
    table.instance_seen(instance("a", "first"));
    let asked = table.asking(&pod);
    for one in ["first", "second"] {
        table.instance_gone(&instance("a", one).key, &Arc::from(one));
    }
    table.made(&pod, instance("a", "first"), asked, Answer::Created);
    assert!(table.instance(&pod).is_none(), "only the last tombstone is kept, and this answer is older");
}
