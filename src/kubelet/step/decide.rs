//! What follows from what is known.

use crate::kubelet::partition::UNREACHABLE;
use crate::kubelet::provider::Obstacle;
use crate::kubelet::sites::{CHOICE, Index, NOWHERE};

use super::record::{Action, Evidence, InstanceView, Phase, Presence, ProxyView, Reach, Record, misplaced};

/// What to do about a record. Depends on nothing else.
pub(super) fn decide(record: &Record) -> Vec<Action> {
    let mut actions = decide_first(record);
    // Last, since its site may be out of reach.
    if let Some(second) = record.elsewhere.as_deref().filter(|second| second.deleting.is_none())
        && (record.proxy.there().is_some() || record.memo.proxy_buried)
    {
        actions.extend(stop(record, second, None));
    }
    actions
}

fn decide_first(record: &Record) -> Vec<Action> {
    match &record.proxy {
        Presence::Unknown => vec![],
        Presence::Absent => orphan(record),
        Presence::There(proxy) if given_up(record, proxy) => give_up(record, proxy),
        Presence::There(proxy) if proxy.deleting.is_some() => leave(record, proxy),
        Presence::There(proxy) if proxy.health.phase.terminal() => rest(record, proxy),
        Presence::There(proxy) => live(record, proxy),
    }
}

/// No proxy: what runs for it must end, with the grace period that it has by itself, as a kubelet does with a pod whose
/// object was removed by force. A proxy that was never seen is asked for first: its instance may be the work of another
/// process, of which the target's watch told sooner than the host's tells of the proxy.
fn orphan(record: &Record) -> Vec<Action> {
    match &record.instance {
        Presence::There(_) if !record.memo.proxy_buried => {
            if record.memo.host_blocked {
                vec![]
            } else {
                vec![Action::FindProxy]
            }
        }
        Presence::There(instance) if instance.deleting.is_none() => stop(record, instance, None),
        // A forgotten record is no tombstone: an older event would raise the proxy, and start it again.
        Presence::Absent if !record.memo.watch_behind => vec![Action::Forget],
        Presence::There(_) | Presence::Absent | Presence::Unknown => vec![],
    }
}

/// Whether the proxy ends because its side is silent, or has ended so.
fn given_up(record: &Record, proxy: &ProxyView) -> bool {
    proxy.given_up || (record.reach == Reach::Silent && record.memo.give_up && !proxy.health.phase.terminal())
}

/// The user has chosen not to wait for a silent side: the pod fails, and goes, so that its controller starts another one.
/// What may still run over there is stopped as soon as it can be reached.
fn give_up(record: &Record, proxy: &ProxyView) -> Vec<Action> {
    let mut actions = match &record.instance {
        Presence::There(instance) if instance.deleting.is_none() => stop(record, instance, None),
        _ => vec![],
    };
    if !proxy.health.phase.terminal() {
        actions = report(record, proxy, Evidence::GivenUp, true);
    }
    let shown = proxy.health.phase.terminal() || record.memo.status_refused;
    if shown && proxy.deleting != Some(0) && !record.memo.host_blocked {
        actions.insert(0, Action::DeleteProxy);
    }
    actions
}

/// The proxy is being deleted: stop the instance, show how it ends, and go last.
fn leave(record: &Record, proxy: &ProxyView) -> Vec<Action> {
    // A grace period of zero on a live instance would let a namesake start before its containers have stopped. A kubelet takes
    // it for one second as well (`calculateEffectiveGracePeriod` of its pod workers).
    let grace = proxy.deleting.map(|seconds| seconds.max(1));
    match &record.instance {
        Presence::Unknown => vec![],
        Presence::There(instance) => {
            let asked = instance.deleting.is_some_and(|now| grace.is_some_and(|grace| now <= grace));
            let mut actions = if asked { vec![] } else { stop(record, instance, grace) };
            // What a late request has started after the end is stopped, but no news: a terminal phase never changes. Nor is what
            // runs where the proxy does not say.
            let news = !proxy.health.phase.terminal() || instance.health.phase == proxy.health.phase;
            if news && !misplaced(proxy, instance) {
                actions.extend(mirror(record, proxy, instance, Evidence::Instance));
            }
            actions
        }
        Presence::Absent if doubtful_elsewhere(record, proxy).is_some() => seek_elsewhere(record, proxy),
        // Whoever has seen the instance go need not ask; the provider's watch may be behind the host's.
        Presence::Absent if !sought(record, proxy) && (record.memo.doubt || record.memo.buried.is_none()) => {
            seek(record, proxy)
        }
        Presence::Absent if !proxy.health.phase.terminal() && !record.memo.status_refused => {
            let evidence = if record.memo.ended.is_some() { Evidence::Instance } else { Evidence::Ended };
            report(record, proxy, evidence, true)
        }
        // With a grace of zero the host itself removes it, as soon as its finalizers allow.
        Presence::Absent if proxy.deleting == Some(0) || record.memo.host_blocked => vec![],
        Presence::Absent => vec![Action::DeleteProxy],
    }
}

/// The proxy is Succeeded or Failed: nothing starts any more, and what still runs is a stale copy. What has ended as well
/// stays, for its logs, until the proxy goes.
fn rest(record: &Record, proxy: &ProxyView) -> Vec<Action> {
    match &record.instance {
        Presence::There(instance) if !instance.health.phase.terminal() && instance.deleting.is_none() => {
            stop(record, instance, None)
        }
        Presence::There(instance) if instance.health.phase == proxy.health.phase => {
            mirror(record, proxy, instance, Evidence::Instance)
        }
        _ => vec![],
    }
}

/// The proxy should run.
fn live(record: &Record, proxy: &ProxyView) -> Vec<Action> {
    let outdated = outdated(record, proxy);
    let mut actions = if record.memo.lift_due && proxy.evictable && !outdated && !record.memo.host_blocked {
        vec![Action::Lift]
    } else {
        vec![]
    };
    actions.extend(match record.reach {
        Reach::Fine => keep(record, proxy),
        Reach::Silent if proxy.site == Some(NOWHERE) => report(record, proxy, Evidence::Waiting(astray()), true),
        Reach::Silent => report(record, proxy, Evidence::Waiting(silent()), true),
        Reach::Returning => vec![],
    });
    actions
}

/// The proxy should run, and its side answers.
fn keep(record: &Record, proxy: &ProxyView) -> Vec<Action> {
    match &record.instance {
        // What runs is not called unready for that: the list may come in a moment.
        Presence::Unknown if proxy.health.phase == Phase::Pending => {
            report(record, proxy, Evidence::Waiting(unlisted()), false)
        }
        Presence::Unknown => vec![],
        // A choice was changed although something runs elsewhere: never two at once.
        Presence::There(instance) if misplaced(proxy, instance) => {
            let mut actions = if instance.deleting.is_none() { stop(record, instance, None) } else { vec![] };
            actions.extend(report(record, proxy, Evidence::Leaving, true));
            actions
        }
        Presence::There(instance) if record.memo.moving && !instance.started => {
            if instance.deleting.is_none() {
                stop(record, instance, None)
            } else {
                vec![]
            }
        }
        Presence::There(instance) if instance.deleting.is_some() => {
            if replaceable(record, proxy) || !instance.health.phase.terminal() {
                report(record, proxy, Evidence::Leaving, true)
            } else {
                mirror(record, proxy, instance, Evidence::Instance)
            }
        }
        Presence::There(instance) => {
            let mut actions = vec![];
            // It was started when there was nothing to choose.
            if proxy.site.is_none() && !outdated(record, proxy) && !record.memo.host_blocked {
                actions.push(Action::Place);
            }
            if instance.sent != proxy.want && !instance.health.phase.terminal() && !record.memo.blocked {
                actions.push(Action::Update);
            }
            actions.extend(mirror(record, proxy, instance, Evidence::Instance));
            actions
        }
        Presence::Absent if doubtful_elsewhere(record, proxy).is_some() => seek_elsewhere(record, proxy),
        // It was removed over there before home was told of its end: that end counts.
        Presence::Absent if record.memo.ended.is_some() => report(record, proxy, Evidence::Instance, true),
        // Nothing is given up for lost on the ground of a watch that may be behind what another process has done.
        Presence::Absent if !replaceable(record, proxy) && !sought(record, proxy) => seek(record, proxy),
        Presence::Absent if !replaceable(record, proxy) => report(record, proxy, Evidence::Lost, true),
        // An attempt before may have made one, and nothing was heard of it.
        Presence::Absent if record.memo.rejected.is_some() && record.memo.doubt && !sought(record, proxy) => {
            seek(record, proxy)
        }
        Presence::Absent => {
            if let Some(why) = &record.memo.rejected {
                return report(record, proxy, Evidence::Rejected((**why).clone()), true);
            }
            let mut actions = vec![];
            if !record.memo.blocked {
                let placed = proxy.site.is_some() && !record.memo.moving;
                if placed && !(proxy.chosen && record.memo.untouched) {
                    actions.push(Action::Create);
                } else if !outdated(record, proxy) && !record.memo.host_blocked {
                    actions.push(if placed { Action::Fence } else { Action::Place });
                }
            }
            if let Some(obstacle) = &record.memo.obstacle {
                actions.extend(report(record, proxy, Evidence::Waiting(obstacle.clone()), false));
            }
            actions
        }
    }
}

/// The obstacle of a pod for which nothing can be decided yet. It is shown only if it lasts for as long as a report may wait.
pub(super) fn unlisted() -> Obstacle {
    Obstacle {
        reason: UNREACHABLE.into(),
        message:
            "what runs in the target is not known yet: it has not been listed completely; the conditions of the node \
                  tell if anything is wrong"
                .into(),
    }
}

/// The obstacle of a pod whose side does not answer. It says always the same, or each attempt would be a write.
fn silent() -> Obstacle {
    Obstacle {
        reason: UNREACHABLE.into(),
        message: "the target does not answer; what runs there may go on, but nothing is known of it".into(),
    }
}

/// The obstacle of a pod whose choice names none of the node's sites: it may run there, so that it is started nowhere else.
fn astray() -> Obstacle {
    Obstacle {
        reason: "TargetUnknown".into(),
        message: format!(
            "its annotation {CHOICE} names a target that this node does not have (any more), where it may run; give the node that \
             target, or delete the pod by force"
        ),
    }
}

/// Whether a new instance may take the place of one that vanished.
fn replaceable(record: &Record, proxy: &ProxyView) -> bool {
    proxy.replaceable && record.memo.ended.is_none() && !(proxy.once && record.memo.ran)
}

/// Whether an absence needs no further question: the provider was asked, or there is no site that could be asked, since the
/// choice is written before anything is created.
fn sought(record: &Record, proxy: &ProxyView) -> bool {
    record.memo.sought || proxy.site.is_none()
}

fn seek(record: &Record, proxy: &ProxyView) -> Vec<Action> {
    // At a site that is no more there is nobody to ask.
    if record.memo.delete_blocked || proxy.site == Some(NOWHERE) { vec![] } else { vec![Action::FindInstance] }
}

/// Where something may be that was made before another site was chosen. Nothing is made at the other, nor is it said that all
/// is over, before that is known.
fn doubtful_elsewhere(record: &Record, proxy: &ProxyView) -> Option<Index> {
    record.memo.doubtful_at.filter(|site| proxy.site != Some(*site))
}

fn seek_elsewhere(record: &Record, proxy: &ProxyView) -> Vec<Action> {
    let site = doubtful_elsewhere(record, proxy).filter(|_| !record.memo.delete_blocked);
    site.map(Action::FindElsewhere).into_iter().collect()
}

fn stop(record: &Record, instance: &InstanceView, grace: Option<u32>) -> Vec<Action> {
    if record.memo.delete_blocked {
        return vec![];
    }
    vec![Action::Delete { instance: instance.uid.clone(), site: instance.site, grace }]
}

/// A report of the instance's status: at once when it changes what controllers act on, else within a second.
fn mirror(record: &Record, proxy: &ProxyView, instance: &InstanceView, evidence: Evidence) -> Vec<Action> {
    let urgent = instance.health != proxy.health;
    report(record, proxy, evidence, urgent)
}

/// The proxy has changed since it was last read.
fn outdated(record: &Record, proxy: &ProxyView) -> bool {
    record.memo.outdated.is_some_and(|version| proxy.version <= version)
}

fn report(record: &Record, proxy: &ProxyView, evidence: Evidence, urgent: bool) -> Vec<Action> {
    if outdated(record, proxy) || record.memo.host_blocked || record.memo.status_refused {
        return vec![];
    }
    vec![Action::Report { evidence, urgent: urgent || record.memo.report_due }]
}
