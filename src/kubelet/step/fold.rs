//! What is known after an event.

use std::sync::Arc;

use super::record::{Answer, Event, InstanceView, Presence, ProxyView, Reach, Record, misplaced};

/// What is known after an event; never forgets something newer for something older.
pub(super) fn fold(record: &mut Record, event: Event) {
    // Whatever happens is a reason to ask again; that time passes is none.
    record.memo.status_refused &= matches!(event, Event::Look | Event::ReportDue | Event::LiftDue | Event::Retry);
    match event {
        Event::ProxySeen(proxy) => see_proxy(record, proxy),
        Event::ProxyGone => {
            record.proxy = Presence::Absent;
            record.memo.proxy_buried = true;
            record.memo.watch_behind = false;
        }
        Event::InstanceSeen(instance) => see_instance(record, instance),
        Event::InstanceGone(uid) if record.elsewhere.as_ref().is_some_and(|other| other.uid == uid) => {
            record.elsewhere = None;
            record.memo.delete_blocked = false;
        }
        Event::InstanceGone(uid) => {
            // Of an instance that was never seen nothing follows for the one that is there, or may be at another site.
            if record.instance.there().is_some_and(|known| known.uid == uid) {
                record.instance = succeed(record);
            }
            bury(record, uid);
        }
        Event::NoInstance => {
            let known = record.instance.there().is_some();
            let next = if known { succeed(record) } else { Presence::Absent };
            if let Presence::There(known) = std::mem::replace(&mut record.instance, next) {
                bury(record, known.uid);
            }
        }
        Event::Look => {}
        Event::Retry => {
            record.memo.blocked = false;
            record.memo.host_blocked = false;
            record.memo.delete_blocked = false;
        }
        Event::ReportDue => record.memo.report_due = true,
        // Whoever was told of the return since does not give up.
        Event::GiveUp => record.memo.give_up = record.reach == Reach::Silent,
        // Whatever has started has its place.
        Event::Move => {
            let stuck = |instance: &InstanceView| !instance.started && instance.deleting.is_none();
            record.memo.moving = record.instance.there().is_some_and(stuck);
        }
        Event::LiftDue => record.memo.lift_due = true,
        Event::Answer(answer) => learn(record, answer),
    }
}

/// An instance is gone. The first loss of a pod that should run is made good at once, further ones with backoff: something
/// over there may be deleting whatever we create.
fn bury(record: &mut Record, uid: Arc<str>) {
    record.memo.buried = Some(uid);
    record.memo.delete_blocked = false;
    if let Presence::There(proxy) = &record.proxy
        && proxy.deleting.is_none()
        && !proxy.health.phase.terminal()
        && !record.memo.moving
    {
        record.memo.losses = record.memo.losses.saturating_add(1);
        record.memo.blocked = record.memo.losses > 1;
        record.memo.tried = proxy.want;
    }
}

fn learn(record: &mut Record, answer: Answer) {
    match answer {
        Answer::Created(instance) | Answer::Updated(instance) => {
            record.memo.blocked = false;
            record.memo.attempts = 0;
            see_instance(record, instance);
        }
        Answer::Refused { obstacle, retry } => {
            if let Presence::There(proxy) = &record.proxy {
                record.memo.tried = proxy.want;
            }
            record.memo.obstacle = Some(obstacle);
            record.memo.blocked = true;
            if retry {
                record.memo.attempts = record.memo.attempts.saturating_add(1);
                record.memo.doubt = true;
                record.memo.sought = false;
            }
        }
        Answer::Rejected(why) => record.memo.rejected = Some(Box::new(why)),
        Answer::Doubtful(site) => {
            record.memo.doubt = true;
            record.memo.doubtful_at = site;
            record.memo.sought = false;
        }
        Answer::InstanceMissing => {
            record.memo.doubt = false;
            record.memo.sought = true;
            if record.proxy.there().is_none_or(|proxy| proxy.site == record.memo.doubtful_at) {
                record.memo.doubtful_at = None;
            }
        }
        Answer::NotElsewhere(site) => {
            if record.memo.doubtful_at == Some(site) {
                record.memo.doubtful_at = None;
            }
        }
        Answer::Stopping(uid, grace) => {
            record.memo.attempts = 0;
            let known = match &mut record.instance {
                Presence::There(instance) => Some(instance),
                Presence::Unknown | Presence::Absent => None,
            };
            for instance in known.into_iter().chain(record.elsewhere.as_deref_mut()).filter(|known| known.uid == uid) {
                instance.deleting = Some(instance.deleting.map_or(grace, |now| now.min(grace)));
            }
        }
        Answer::StopFailed => {
            record.memo.delete_blocked = true;
            record.memo.attempts = record.memo.attempts.saturating_add(1);
        }
        Answer::Reported(proxy) => {
            record.memo.report_due = false;
            record.memo.outdated = None;
            if record.memo.obstacle.is_none() {
                record.memo.attempts = 0;
            }
            see_proxy(record, proxy);
        }
        Answer::Placed(proxy) => {
            record.memo.outdated = None;
            record.memo.moving = false;
            record.memo.blocked = false;
            record.memo.attempts = 0;
            see_proxy(record, proxy);
        }
        Answer::Lifted(proxy) => {
            record.memo.outdated = None;
            record.memo.lift_due = false;
            see_proxy(record, proxy);
        }
        Answer::Unchanged => record.memo.report_due = false,
        Answer::Deferred => {}
        Answer::Conflict(version) => record.memo.outdated = Some(version),
        Answer::StatusRefused => record.memo.status_refused = true,
        Answer::HostFailed => {
            record.memo.host_blocked = true;
            record.memo.attempts = record.memo.attempts.saturating_add(1);
        }
        Answer::ProxyMissing => {
            record.proxy = Presence::Absent;
            record.memo.watch_behind = !record.memo.proxy_buried || record.memo.watch_behind;
            record.memo.proxy_buried = true;
        }
        Answer::ProxyDeleted => {
            // Finalizers may still hold it. Nothing of ours is left to do, and its DELETED event ends the record.
            if let Presence::There(proxy) = &mut record.proxy {
                proxy.deleting = Some(0);
            }
        }
    }
}

fn see_proxy(record: &mut Record, proxy: ProxyView) {
    if record.memo.proxy_buried {
        return;
    }
    if let Presence::There(known) = &record.proxy
        && proxy.version < known.version
    {
        return;
    }
    if proxy.want != record.memo.tried {
        record.memo.blocked = false;
    }
    if record.instance.there().is_some_and(|instance| instance.sent == proxy.want) {
        record.memo.obstacle = None;
    }
    // A report about the next instance may take this away from home again. (Of a pod that may start once, exactly what has
    // started cannot be replaced.)
    record.memo.ran |= proxy.once && !proxy.replaceable;
    record.memo.untouched =
        record.proxy.there().is_none_or(|known| record.memo.untouched && known.version == proxy.version);
    record.proxy = Presence::There(proxy);
    sort_out(record);
}

/// What is there once the instance has gone: the second one, if there is one. The end of one where the proxy does not say tells
/// nothing of where it says, which may not be known yet; whoever has listed that knows.
fn succeed(record: &mut Record) -> Presence<InstanceView> {
    if let Some(other) = record.elsewhere.take() {
        return Presence::There(*other);
    }
    match (&record.proxy, &record.instance) {
        (Presence::There(proxy), Presence::There(instance)) if !misplaced(proxy, instance) => Presence::Absent,
        // Nothing is made there any more.
        (Presence::Absent, _) => Presence::Absent,
        _ => Presence::Unknown,
    }
}

/// Of two instances, the one where the proxy says counts.
fn sort_out(record: &mut Record) {
    if let (Presence::There(proxy), Presence::There(first), Some(second)) =
        (&record.proxy, &mut record.instance, &mut record.elsewhere)
        && proxy.site == Some(second.site)
    {
        std::mem::swap(first, second);
    }
}

fn see_instance(record: &mut Record, instance: InstanceView) {
    if record.memo.buried.as_ref() == Some(&instance.uid) {
        return;
    }
    if record.memo.doubtful_at == Some(instance.site) {
        record.memo.doubtful_at = None;
    }
    if let Presence::There(known) = &record.instance {
        // Versions of two servers say nothing of each other.
        let other = if known.site == instance.site { Some(known) } else { record.elsewhere.as_deref() };
        if other.is_some_and(|known| known.site == instance.site && instance.version < known.version) {
            return;
        }
        if known.site != instance.site {
            record.memo.ran |= instance.started;
            record.elsewhere = Some(Box::new(instance));
            sort_out(record);
            return;
        }
    }
    record.memo.rejected = None;
    // What an update has met stays until the instance follows.
    let follows = record.proxy.there().is_none_or(|proxy| proxy.want == instance.sent);
    if follows || record.instance.there().is_none_or(|known| known.uid != instance.uid) {
        record.memo.obstacle = None;
    }
    // Where the proxy does not say, it is not what the doubt is about.
    record.memo.doubt &= record.proxy.there().is_some_and(|proxy| misplaced(proxy, &instance));
    record.memo.sought = false;
    record.memo.ran |= instance.started;
    record.memo.moving &= !instance.started;
    let placed = record.proxy.there().is_none_or(|proxy| !misplaced(proxy, &instance));
    if placed && instance.health.phase.terminal() && instance.deleting.is_none() {
        record.memo.ended = Some(instance.uid.clone());
    } else if record.memo.ended.as_ref() != Some(&instance.uid) {
        record.memo.ended = None;
    }
    if instance.health.ready {
        record.memo.losses = 0;
    }
    record.instance = Presence::There(instance);
}
