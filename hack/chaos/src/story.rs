//! What happened to one pod, told from all sides in the order of time.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use crate::judge::{Change, Event, Side, Sight};

/// What a story is told from.
pub(crate) struct Sources<'a> {
    /// When the record began, by the clock that logs use.
    pub(crate) begun: SystemTime,
    pub(crate) events: &'a [Event],
    /// What the run did, and when.
    pub(crate) deeds: &'a [(Duration, String)],
    /// What each replica has logged.
    pub(crate) logs: &'a [String],
}

/// Everything about a proxy, its delegates and its namesakes; and what was broken while it lived.
pub(crate) fn tell(sources: &Sources<'_>, proxy: &str) -> String {
    let about = |pod: &Sight| pod.uid == proxy || pod.proxy == proxy;
    let Some(first) = sources.events.iter().find(|event| about(&event.pod)) else { return String::new() };
    let (namespace, name) = (&first.pod.namespace, &first.pod.name);
    let named = |pod: &Sight| pod.namespace == *namespace && pod.name == *name;
    let its: Vec<&Event> = sources.events.iter().filter(|event| about(&event.pod)).collect();
    // A little more than its life: its predecessor may matter.
    let margin = Duration::from_secs(5);
    let from = its.first().map_or(Duration::ZERO, |event| event.at).saturating_sub(margin);
    let until = its.last().map_or(Duration::MAX, |event| event.at.saturating_add(margin));
    let within = |at: Duration| from <= at && at <= until;
    let time = |at: Duration| clock(sources.begun + at);

    let mut lines: Vec<(String, String)> = vec![];
    for event in sources.events.iter().filter(|event| named(&event.pod) && within(event.at)) {
        lines.push((time(event.at), describe(event)));
    }
    for (at, what) in sources.deeds.iter().filter(|(at, _)| within(*at)) {
        lines.push((time(*at), format!("fault      {what}")));
    }
    let (whole, uids) = (format!("{namespace}/{name}"), its.iter().map(|event| event.pod.uid.as_str()));
    let words: Vec<&str> = std::iter::once(whole.as_str()).chain(uids).collect();
    for (replica, log) in sources.logs.iter().enumerate() {
        for line in log.lines().map(plain) {
            let stamp = line.split_whitespace().next().and_then(|stamp| stamp.split_once('T'));
            let stamp = stamp.map(|(_, clock)| clock.chars().take(12).collect::<String>());
            // A name that only begins alike is another one.
            let hit = words.iter().any(|word| {
                let rest = line.split_once(word).map(|(_, rest)| rest.chars().next());
                rest.is_some_and(|next| !next.is_some_and(|next| next.is_alphanumeric() || next == '-'))
            });
            if let (Some(stamp), true) = (stamp, hit)
                && (time(from)..=time(until)).contains(&stamp)
            {
                lines.push((stamp, format!("replica {replica}  {line}")));
            }
        }
    }
    lines.sort_by(|one, other| one.0.cmp(&other.0));
    let mut text = String::new();
    for (time, line) in lines {
        _ = writeln!(text, "    {time} {line}");
    }
    text
}

fn describe(event: &Event) -> String {
    let Event { side, change, pod, .. } = event;
    let side = match side {
        Side::Host => "host      ".to_owned(),
        Side::Target(index) => format!("target {index}  "),
    };
    let change = match change {
        Change::There => "",
        Change::Gone => " GONE",
        Change::Missed => " GONE (unseen: it was not in a list)",
    };
    let mut text = format!("{side} {} {}", pod.uid, if pod.phase.is_empty() { "(no phase)" } else { &pod.phase });
    for (said, holds) in [
        (" ready", pod.ready),
        (" running", pod.running),
        (" terminating", pod.terminating),
        (" once", pod.once),
        (" unbound", pod.node.is_empty()),
    ] {
        text.push_str(if holds { said } else { "" });
    }
    if pod.restarts > 0 {
        _ = write!(text, " restarts={}", pod.restarts);
    }
    if !pod.proxy.is_empty() {
        _ = write!(text, " of {}", pod.proxy);
    }
    _ = write!(text, " v{}{change}", pod.version);
    text
}

/// A line without the colours of a terminal.
fn plain(line: &str) -> String {
    let mut parts = line.split('\u{1b}');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push_str(part.split_once('m').map_or(part, |(_, rest)| rest));
    }
    text
}

/// The time of day in UTC, to the millisecond, as logs have it.
fn clock(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (seconds, millis) = (since.as_secs() % 86_400, since.subsec_millis());
    format!("{:02}:{:02}:{:02}.{millis:03}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at: u64, side: Side, uid: &str, proxy: &str, name: &str) -> Event {
        let text = str::to_owned;
        let pod =
            Sight { namespace: text("n"), name: text(name), uid: text(uid), proxy: text(proxy), ..Sight::default() };
        Event { at: Duration::from_secs(at), side, change: Change::There, pod }
    }

    #[test]
    fn a_story_has_all_sides_in_order_and_nobody_else() {
        let events = [
            event(10, Side::Host, "uid-p", "", "web"),
            event(11, Side::Host, "uid-q", "", "web-2"),
            event(12, Side::Target(1), "uid-d", "uid-p", "web"),
        ];
        let log = "1970-01-01T00:00:11.500000Z \u{1b}[32mINFO\u{1b}[0m created pod=n/web uid=uid-p\n\
                   1970-01-01T00:00:11.600000Z INFO created pod=n/web-2 uid=uid-q\n\
                   1970-01-01T00:01:00.000000Z INFO much later pod=n/web";
        let deeds = [(Duration::from_secs(11), "Kill".to_owned()), (Duration::from_secs(60), "Stop".to_owned())];
        let logs = [log.to_owned()];
        let sources = Sources { begun: SystemTime::UNIX_EPOCH, events: &events, deeds: &deeds, logs: &logs };
        let story = tell(&sources, "uid-p");
        let starts: Vec<&str> = story.lines().map(str::trim_start).map(|line| &line[..24]).collect();
        assert_eq!(
            starts,
            [
                "00:00:10.000 host       ",
                "00:00:11.000 fault      ",
                "00:00:11.500 replica 0  ",
                "00:00:12.000 target 1   "
            ]
        );
        assert!(story.contains("INFO created pod=n/web uid=uid-p") && !story.contains('\u{1b}'), "{story}");
    }
}
