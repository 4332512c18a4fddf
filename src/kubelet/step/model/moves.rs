//! Everything that may happen next.
//!
//! Two things are not moves because others already do the same. **A lost link** delays requests, answers and events, and
//! any of them may be as late as it likes anyway; what it does beyond that is [`Move::TimeOut`] and [`Move::Break`]. That a
//! process *thinks* the target silent is a move, and needs no reason: requests may well go through. **A process that is down** for a while does nothing, and neither does one that has not begun to
//! list: a crash is one move together with the restart.

use super::mutants::Mutant;
use super::process::{Shell, entry, place_of};
use super::servers::{self, Sender};
use super::world::{
    Entry, HOST, Id, Inst, LIVES, Notice, Policy, Process, Proxy, Request, SITE, Stray, Told, Watch, World,
};
use super::{Harbour, Kind};
use crate::kubelet::sites::{Index, NOWHERE};
use crate::kubelet::step::{Event, Phase, ProxyView, Reach};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Move {
    /// The user.
    Create(u8),
    Delete(Id),
    Force(Id),
    Change(Id),
    /// A site's kubelet.
    Start(Id, Index),
    End(Id, Index),
    Finish(Id, Index),
    /// Somebody at a site deletes a delegate, with or without its grace period.
    Evict(Id, Index),
    Vanish(Id, Index),
    /// A process ends, and another starts with nothing.
    Crash(usize),
    /// A watch loses what was under way, and lists again.
    Break(usize, usize),
    /// A request is given up; the server may have acted, or may act later.
    TimeOut(usize, Id),
    /// A process finds a site silent; it is heard again and listed anew; all goes on.
    Silence(usize, Index),
    Return(usize, Index),
    Welcome(usize, Index),
    /// A process finds that an instance cannot be scheduled where it is.
    Leave(usize, Id),
    /// The user does not wait any longer.
    GiveUp(usize, Id),
    /// A request that nobody waits for arrives.
    Arrive(usize, Index),
    /// A process begins to list a side.
    List(usize, usize),
    /// A process reads the next notice of a side.
    Read(usize, usize),
    /// A worker takes a key.
    Work(usize, Id),
    /// A server acts; where a site is to be chosen, it is this.
    Serve(usize, Id, Index),
    /// The worker reads the answer.
    Answer(usize, Id),
    /// A timer fires.
    Due(usize, Id),
    Retry(usize, Id),
}

impl Harbour {
    /// All moves, the ones of a fair and quiet world first, timers after what does not wait.
    pub(super) fn moves(&self, w: &World, moves: &mut Vec<Move>) {
        self.quiet_moves(w, moves);
        self.user_moves(w, moves);
        self.impatience(w, moves);
        if w.faults > 0 {
            self.faults(w, moves);
        }
        let behind: Vec<_> = self
            .sides()
            .map(|side| w.processes.iter().any(|process| process.watches[side].behind() > usize::from(self.lag)))
            .collect();
        if behind.contains(&true) {
            moves.retain(|chosen| writes_to(w, *chosen).is_none_or(|side| !behind[side]));
        }
    }

    fn sides(&self) -> std::ops::Range<usize> {
        HOST..SITE + self.sites
    }

    /// Between which sites the chooser finds one for this request.
    fn picks(&self, w: &World, request: Request) -> std::ops::Range<Index> {
        match request {
            // What is chosen first is called the first.
            Request::Place { site: None, .. } if !w.chosen => 0..1,
            Request::Place { site: None, shunned, .. } => match shunned {
                Some(0) if self.sites > 1 => 1..2,
                Some(1) => 0..1,
                _ => 0..u8::try_from(self.sites).unwrap_or(1),
            },
            _ => 0..1,
        }
    }

    /// What happens by itself.
    pub(super) fn quiet_moves(&self, w: &World, moves: &mut Vec<Move>) {
        for (p, process) in w.processes.iter().enumerate() {
            for side in self.sides() {
                if !process.watches[side].begun {
                    moves.push(Move::List(p, side));
                } else if !process.watches[side].queue.is_empty() {
                    moves.push(Move::Read(p, side));
                }
            }
            for entry in &process.entries {
                match entry.flight {
                    Some(flight) if flight.reply.is_none() => {
                        moves.extend(self.picks(w, flight.request).map(|pick| Move::Serve(p, entry.id, pick)));
                    }
                    Some(_) => moves.push(Move::Answer(p, entry.id)),
                    None if entry.dirty => moves.push(Move::Work(p, entry.id)),
                    None => {}
                }
            }
        }
        for (index, stray) in w.strays.iter().enumerate() {
            moves.extend(self.picks(w, stray.request).map(|pick| Move::Arrive(index, pick)));
        }
        for inst in insts(w) {
            if inst.deleting.is_some() {
                moves.push(Move::Finish(inst.owner, inst.site));
            } else if inst.phase == Phase::Pending {
                moves.push(Move::Start(inst.owner, inst.site));
            }
        }
        for (p, process) in w.processes.iter().enumerate() {
            for entry in &process.entries {
                if entry.due {
                    moves.push(Move::Due(p, entry.id));
                }
                if entry.retry {
                    moves.push(Move::Retry(p, entry.id));
                }
            }
            for (site, reach) in (0..).zip(process.reach) {
                let watch = &process.watches[SITE + usize::from(site)];
                match reach {
                    Reach::Silent => moves.push(Move::Return(p, site)),
                    Reach::Returning if watch.complete && watch.queue.is_empty() => moves.push(Move::Welcome(p, site)),
                    Reach::Returning | Reach::Fine => {}
                }
            }
        }
    }

    fn user_moves(&self, w: &World, moves: &mut Vec<Move>) {
        for (number, name) in (0u8..).zip(&w.names) {
            match name.host {
                None if name.lives < self.lives
                    && (number == 0 || name.lives == 0 || !self.allows(Kind::Bystander)) =>
                {
                    moves.push(Move::Create(number));
                }
                None => {}
                Some(proxy) => {
                    if number > 0 && self.allows(Kind::Bystander) {
                        continue;
                    }
                    if proxy.deleting.is_none() {
                        moves.push(Move::Delete(proxy.id));
                    }
                    if self.allows(Kind::Force) {
                        moves.push(Move::Force(proxy.id));
                    }
                    if proxy.live() && name.changes > 0 {
                        moves.push(Move::Change(proxy.id));
                    }
                }
            }
        }
        if self.allows(Kind::End) {
            let runs = insts(w).filter(|inst| inst.phase == Phase::Running && inst.deleting.is_none());
            moves.extend(runs.map(|inst| Move::End(inst.owner, inst.site)));
        }
    }

    fn impatience(&self, w: &World, moves: &mut Vec<Move>) {
        if !self.allows(Kind::Replace) {
            return;
        }
        for (p, process) in w.processes.iter().enumerate() {
            let alone = |entry: &&Entry| {
                let alive = |proxy: &ProxyView| !proxy.health.phase.terminal();
                let silent = place_of(&entry.record).and_then(|site| process.reach.get(usize::from(site)));
                silent == Some(&Reach::Silent)
                    && entry.record.proxy.there().is_some_and(alive)
                    && !entry.record.memo.give_up
            };
            moves.extend(process.entries.iter().filter(alone).map(|entry| Move::GiveUp(p, entry.id)));
        }
    }

    fn faults(&self, w: &World, moves: &mut Vec<Move>) {
        for inst in insts(w) {
            if self.allows(Kind::Vanish) {
                moves.push(Move::Vanish(inst.owner, inst.site));
            }
            if inst.deleting.is_none() && self.allows(Kind::Evict) {
                moves.push(Move::Evict(inst.owner, inst.site));
            }
        }
        for (p, process) in w.processes.iter().enumerate() {
            let fresh = process.watches.iter().all(|watch| !watch.begun);
            if self.allows(Kind::Silence) {
                let fine = (0..).zip(&process.reach[..self.sites]).filter(|(_, reach)| **reach == Reach::Fine);
                moves.extend(fine.map(|(site, _)| Move::Silence(p, site)));
            }
            if self.allows(Kind::Move) {
                let stuck = process.entries.iter().filter(|entry| stuck(process, entry));
                moves.extend(stuck.map(|entry| Move::Leave(p, entry.id)));
            }
            if !fresh && self.allows(Kind::Crash) {
                moves.push(Move::Crash(p));
            }
            for side in self.sides() {
                if process.watches[side].begun && self.allows(Kind::Break) {
                    moves.push(Move::Break(p, side));
                }
            }
            if self.allows(Kind::TimeOut) {
                let waiting = process.entries.iter().filter(|entry| entry.flight.is_some());
                moves.extend(waiting.map(|entry| Move::TimeOut(p, entry.id)));
            }
        }
    }

    /// The state after a move.
    pub(super) fn after(&self, last: &World, chosen: Move) -> World {
        let mut w = last.clone();
        match chosen {
            Move::Create(name) => servers::create_proxy(&mut w, name, self.choice()),
            Move::Delete(id) => servers::user_deletes(&mut w, id, false),
            Move::Force(id) => servers::user_deletes(&mut w, id, true),
            Move::Change(id) => servers::user_changes(&mut w, id),
            Move::Start(id, site) => servers::start(&mut w, id, site),
            Move::End(id, site) => servers::end(&mut w, self.policy(id), id, site),
            Move::Finish(id, site) => servers::finish(&mut w, id, site),
            Move::Evict(id, site) => servers::interfere(&mut w, id, site, false),
            Move::Vanish(id, site) => servers::interfere(&mut w, id, site, true),
            Move::Crash(p) => self.crash(&mut w, p),
            Move::List(p, side) | Move::Break(p, side) => self.list(&mut w, p, side),
            Move::TimeOut(p, id) => self.time_out(&mut w, p, id),
            Move::Arrive(index, pick) => {
                let Stray { from, id, request } = w.strays.remove(index);
                servers::serve(&mut w, self.policy(id), Sender { process: from, stray: true }, id, request, pick);
            }
            Move::Read(p, side) => self.shell(&mut w.processes[p]).notice(side),
            Move::Work(p, id) => {
                let outcome = self.shell(&mut w.processes[p]).work(id);
                outcome.unwrap_or_else(|wrong| w.blame(wrong));
            }
            Move::Serve(p, id, pick) => {
                let request =
                    entry(&mut w.processes[p], id).and_then(|entry| entry.flight).map(|flight| flight.request);
                if let Some(mut request) = request {
                    match (self.mutant, &mut request, w.proxy(id)) {
                        (Some(Mutant::BlindPatch), Request::Report { version, .. }, Some(proxy))
                        | (Some(Mutant::BlindChoice), Request::Place { version, .. }, Some(proxy)) => {
                            *version = proxy.version;
                        }
                        _ => {}
                    }
                    let sender = Sender { process: p, stray: false };
                    let reply = servers::serve(&mut w, self.policy(id), sender, id, request, pick);
                    if let Some(flight) = entry(&mut w.processes[p], id).and_then(|entry| entry.flight.as_mut()) {
                        flight.reply = Some(reply);
                    }
                }
            }
            Move::Answer(p, id) => {
                if let Some(flight) = entry(&mut w.processes[p], id).and_then(|entry| entry.flight) {
                    let outcome = self.shell(&mut w.processes[p]).answered(id, flight);
                    outcome.unwrap_or_else(|wrong| w.blame(wrong));
                }
            }
            Move::Silence(p, site) => self.shell(&mut w.processes[p]).reach(site.into(), Reach::Silent),
            Move::Return(p, site) => {
                self.shell(&mut w.processes[p]).reach(site.into(), Reach::Returning);
                self.list(&mut w, p, SITE + usize::from(site));
            }
            Move::Welcome(p, site) => self.shell(&mut w.processes[p]).reach(site.into(), Reach::Fine),
            Move::Leave(p, id) => {
                w.name(id).truth[usize::from(id.life)].moved = true;
                self.shell(&mut w.processes[p]).move_on(id);
            }
            Move::GiveUp(p, id) => {
                let name = w.name(id);
                name.truth[usize::from(id.life)].given_up = true;
                self.shell(&mut w.processes[p]).give_up(id);
            }
            Move::Due(p, id) => self.shell(&mut w.processes[p]).timer(id, Event::ReportDue),
            Move::Retry(p, id) => self.shell(&mut w.processes[p]).timer(id, Event::Retry),
        }
        if let (
            true,
            Move::Read(p, _)
            | Move::Answer(p, _)
            | Move::TimeOut(p, _)
            | Move::Due(p, _)
            | Move::Retry(p, _)
            | Move::Silence(p, _)
            | Move::Return(p, _)
            | Move::Welcome(p, _)
            | Move::Leave(p, _)
            | Move::GiveUp(p, _),
        ) = (self.eager, chosen)
        {
            self.work_all(&mut w, p);
        }
        if matches!(
            chosen,
            Move::Evict(..)
                | Move::Vanish(..)
                | Move::Crash(_)
                | Move::Break(..)
                | Move::TimeOut(..)
                | Move::Silence(..)
                | Move::Leave(..)
        ) {
            w.faults -= 1;
        }
        w.canonical(self.eager);
        w
    }

    /// What is written on a proxy when it is created.
    fn choice(&self) -> Option<Index> {
        match self.sites {
            1 => Some(0),
            _ => self.allows(Kind::Stale).then_some(NOWHERE),
        }
    }

    /// A process that has listed an empty world and waits.
    pub(super) fn ready(&self) -> Process {
        let watch = Watch { begun: true, complete: true, ..Watch::default() };
        let begun = self.sides();
        let watches = std::array::from_fn(|side| if begun.contains(&side) { watch.clone() } else { Watch::default() });
        Process { watches, ..self.fresh() }
    }

    /// Every key that waits gets its worker.
    fn work_all(&self, w: &mut World, p: usize) {
        let waiting = |process: &Process| {
            process.entries.iter().find(|entry| entry.dirty && entry.flight.is_none()).map(|entry| entry.id)
        };
        while let Some(id) = waiting(&w.processes[p]) {
            if let Err(wrong) = self.shell(&mut w.processes[p]).work(id) {
                w.blame(wrong);
                return;
            }
        }
    }

    pub(super) fn policy(&self, id: Id) -> Policy {
        self.policies[usize::from(id.name)]
    }

    fn shell<'a>(&'a self, process: &'a mut Process) -> Shell<'a> {
        Shell { process, policies: &self.policies, sites: self.sites, prompt: self.prompt, mutant: self.mutant }
    }

    /// A process that knows nothing.
    pub(super) fn fresh(&self) -> Process {
        let names = self.policies.len();
        Process { named: vec![None; names], told: vec![Told::default(); names * LIVES], ..Process::default() }
    }

    /// What was sent and not yet served may still arrive, from a process that is no more.
    pub(super) fn crash(&self, w: &mut World, p: usize) {
        let dead = std::mem::replace(&mut w.processes[p], self.fresh());
        for entry in dead.entries {
            if let Some(flight) = entry.flight.filter(|flight| flight.reply.is_none()) {
                w.leave_behind(Stray { from: p, id: entry.id, request: flight.request });
            }
        }
    }

    fn time_out(&self, w: &mut World, p: usize, id: Id) {
        let Some(flight) = entry(&mut w.processes[p], id).and_then(|entry| entry.flight) else { return };
        if flight.reply.is_none() {
            w.leave_behind(Stray { from: p, id, request: flight.request });
        }
        let outcome = self.shell(&mut w.processes[p]).answered(id, super::world::Flight { reply: None, ..flight });
        outcome.unwrap_or_else(|wrong| w.blame(wrong));
    }

    /// The list shows one moment, which is now; it is read whenever the process comes to it. What the watch had under way
    /// is lost: that a process reads a part of it first is another path to here.
    ///
    /// The record is told that a list begins before the list is asked for.
    fn list(&self, w: &mut World, p: usize, side: usize) {
        let mut queue = std::collections::VecDeque::new();
        if side == HOST || self.mutant != Some(Mutant::LateListing) {
            self.shell(&mut w.processes[p]).listing(side);
        } else {
            queue.push_back(Notice::Listing);
        }
        queue.extend(servers::list(w, side));
        queue.push_back(Notice::Listed);
        let complete = w.processes[p].watches[side].complete;
        w.processes[p].watches[side] = Watch { begun: true, complete, queue };
    }
}

impl World {
    /// A request that reads does nothing without its reader.
    fn leave_behind(&mut self, stray: Stray) {
        if !matches!(stray.request, Request::Find | Request::Seek { .. } | Request::SeekElsewhere { .. }) {
            self.strays.push(stray);
        }
    }
}

/// All instances, wherever they are.
fn insts(w: &World) -> impl Iterator<Item = Inst> {
    w.names.iter().flat_map(|name| name.insts).flatten()
}

/// Whether a process may find an instance stuck where it is: any that has not started may be unschedulable.
fn stuck(process: &Process, entry: &Entry) -> bool {
    let Some(instance) = entry.record.instance.there() else { return false };
    let silent = process.reach[usize::from(instance.site)] == Reach::Silent;
    !instance.started && instance.deleting.is_none() && !entry.record.memo.moving && !silent
}

/// The side that a move may write to, so that its watches have more to read.
fn writes_to(w: &World, chosen: Move) -> Option<usize> {
    let request = match chosen {
        Move::Create(_) | Move::Delete(_) | Move::Force(_) | Move::Change(_) => return Some(HOST),
        Move::Start(_, site)
        | Move::End(_, site)
        | Move::Finish(_, site)
        | Move::Evict(_, site)
        | Move::Vanish(_, site) => return Some(SITE + usize::from(site)),
        Move::Serve(p, id, _) => w.processes[p].entries.iter().find(|entry| entry.id == id)?.flight?.request,
        Move::Arrive(index, _) => w.strays[index].request,
        _ => return None,
    };
    match request {
        Request::Create { site, .. } | Request::Update { site, .. } | Request::Delete { site, .. } => {
            Some(SITE + usize::from(site))
        }
        Request::Report { .. } | Request::Place { .. } | Request::Fence { .. } | Request::DeleteProxy => Some(HOST),
        Request::Find | Request::Seek { .. } | Request::SeekElsewhere { .. } => None,
    }
}

/// Whether a proxy wants to run.
pub(super) fn wanted(proxy: Option<&Proxy>) -> bool {
    proxy.is_some_and(Proxy::live)
}
