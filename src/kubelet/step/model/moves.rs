//! Everything that may happen next.
//!
//! Two things are not moves because others already do the same. **A lost link** delays requests, answers and events, and
//! any of them may be as late as it likes anyway; what it does beyond that is [`Move::TimeOut`] and [`Move::Break`]. That a
//! process *thinks* the target silent is a move, and needs no reason: requests may well go through. **A process that is down** for a while does nothing, and neither does one that has not begun to
//! list: a crash is one move together with the restart.

use super::mutants::Mutant;
use super::process::{Shell, entry};
use super::servers::{self, Sender};
use super::world::{HOST, Id, LIVES, Notice, Policy, Process, Proxy, Request, Stray, TARGET, Told, Watch, World};
use super::{Harbour, Kind};
use crate::kubelet::step::{Event, Phase, ProxyView, Reach};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Move {
    /// The user.
    Create(u8),
    Delete(Id),
    Force(Id),
    Change(Id),
    /// The target's kubelet.
    Start(Id),
    End(Id),
    Finish(Id),
    /// Somebody in the target deletes a delegate, with or without its grace period.
    Evict(Id),
    Vanish(Id),
    /// A process ends, and another starts with nothing.
    Crash(usize),
    /// A watch loses what was under way, and lists again.
    Break(usize, usize),
    /// A request is given up; the server may have acted, or may act later.
    TimeOut(usize, Id),
    /// A process finds the target silent; it is heard again and listed anew; all goes on.
    Silence(usize),
    Return(usize),
    Welcome(usize),
    /// The user does not wait any longer.
    GiveUp(usize, Id),
    /// A request that nobody waits for arrives.
    Arrive(usize),
    /// A process begins to list a side.
    List(usize, usize),
    /// A process reads the next notice of a side.
    Read(usize, usize),
    /// A worker takes a key.
    Work(usize, Id),
    /// A server acts.
    Serve(usize, Id),
    /// The worker reads the answer.
    Answer(usize, Id),
    /// A timer fires.
    Due(usize, Id),
    Retry(usize, Id),
}

impl Harbour {
    /// All moves, the ones of a fair and quiet world first, timers after what does not wait.
    pub(super) fn moves(&self, w: &World, moves: &mut Vec<Move>) {
        Self::quiet_moves(w, moves);
        self.user_moves(w, moves);
        self.impatience(w, moves);
        if w.faults > 0 {
            self.faults(w, moves);
        }
        let behind = [HOST, TARGET]
            .map(|side| w.processes.iter().any(|process| process.watches[side].behind() > usize::from(self.lag)));
        if behind.contains(&true) {
            moves.retain(|chosen| writes_to(w, *chosen).is_none_or(|side| !behind[side]));
        }
    }

    /// What happens by itself.
    pub(super) fn quiet_moves(w: &World, moves: &mut Vec<Move>) {
        for (p, process) in w.processes.iter().enumerate() {
            for side in [HOST, TARGET] {
                if !process.watches[side].begun {
                    moves.push(Move::List(p, side));
                } else if !process.watches[side].queue.is_empty() {
                    moves.push(Move::Read(p, side));
                }
            }
            for entry in &process.entries {
                match entry.flight {
                    Some(flight) if flight.reply.is_none() => moves.push(Move::Serve(p, entry.id)),
                    Some(_) => moves.push(Move::Answer(p, entry.id)),
                    None if entry.dirty => moves.push(Move::Work(p, entry.id)),
                    None => {}
                }
            }
        }
        moves.extend((0..w.strays.len()).map(Move::Arrive));
        for inst in w.names.iter().filter_map(|name| name.target) {
            if inst.deleting.is_some() {
                moves.push(Move::Finish(inst.owner));
            } else if inst.phase == Phase::Pending {
                moves.push(Move::Start(inst.owner));
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
            let listed = process.watches[TARGET].complete && process.watches[TARGET].queue.is_empty();
            match process.reach {
                Reach::Silent => moves.push(Move::Return(p)),
                Reach::Returning if listed => moves.push(Move::Welcome(p)),
                Reach::Returning | Reach::Fine => {}
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
            if let Some(inst) = name.target.filter(|inst| inst.phase == Phase::Running && inst.deleting.is_none())
                && self.allows(Kind::End)
            {
                moves.push(Move::End(inst.owner));
            }
        }
    }

    fn impatience(&self, w: &World, moves: &mut Vec<Move>) {
        for (p, process) in w.processes.iter().enumerate().filter(|(_, process)| process.reach == Reach::Silent) {
            let alive = |entry: &&super::world::Entry| {
                let alive = |proxy: &ProxyView| !proxy.health.phase.terminal();
                entry.record.proxy.there().is_some_and(alive) && !entry.record.memo.give_up
            };
            if self.allows(Kind::Replace) {
                moves.extend(process.entries.iter().filter(alive).map(|entry| Move::GiveUp(p, entry.id)));
            }
        }
    }

    fn faults(&self, w: &World, moves: &mut Vec<Move>) {
        for inst in w.names.iter().filter_map(|name| name.target) {
            if self.allows(Kind::Vanish) {
                moves.push(Move::Vanish(inst.owner));
            }
            if inst.deleting.is_none() && self.allows(Kind::Evict) {
                moves.push(Move::Evict(inst.owner));
            }
        }
        for (p, process) in w.processes.iter().enumerate() {
            let fresh = process.watches.iter().all(|watch| !watch.begun);
            if process.reach == Reach::Fine && self.allows(Kind::Silence) {
                moves.push(Move::Silence(p));
            }
            if !fresh && self.allows(Kind::Crash) {
                moves.push(Move::Crash(p));
            }
            for side in [HOST, TARGET] {
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
            Move::Create(name) => servers::create_proxy(&mut w, name),
            Move::Delete(id) => servers::user_deletes(&mut w, id, false),
            Move::Force(id) => servers::user_deletes(&mut w, id, true),
            Move::Change(id) => servers::user_changes(&mut w, id),
            Move::Start(id) => servers::start(&mut w, id),
            Move::End(id) => servers::end(&mut w, self.policy(id), id),
            Move::Finish(id) => servers::finish(&mut w, id),
            Move::Evict(id) => servers::interfere(&mut w, id, false),
            Move::Vanish(id) => servers::interfere(&mut w, id, true),
            Move::Crash(p) => self.crash(&mut w, p),
            Move::List(p, side) | Move::Break(p, side) => self.list(&mut w, p, side),
            Move::TimeOut(p, id) => self.time_out(&mut w, p, id),
            Move::Arrive(index) => {
                let Stray { from, id, request } = w.strays.remove(index);
                servers::serve(&mut w, self.policy(id), Sender { process: from, stray: true }, id, request);
            }
            Move::Read(p, side) => self.shell(&mut w.processes[p]).notice(side),
            Move::Work(p, id) => {
                let outcome = self.shell(&mut w.processes[p]).work(id);
                outcome.unwrap_or_else(|wrong| w.blame(wrong));
            }
            Move::Serve(p, id) => {
                let request =
                    entry(&mut w.processes[p], id).and_then(|entry| entry.flight).map(|flight| flight.request);
                if let Some(mut request) = request {
                    if let (Some(Mutant::BlindPatch), Request::Report { version, .. }, Some(proxy)) =
                        (self.mutant, &mut request, w.proxy(id))
                    {
                        *version = proxy.version;
                    }
                    let sender = Sender { process: p, stray: false };
                    let reply = servers::serve(&mut w, self.policy(id), sender, id, request);
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
            Move::Silence(p) => self.shell(&mut w.processes[p]).reach(Reach::Silent),
            Move::Return(p) => {
                self.shell(&mut w.processes[p]).reach(Reach::Returning);
                self.list(&mut w, p, TARGET);
            }
            Move::Welcome(p) => self.shell(&mut w.processes[p]).reach(Reach::Fine),
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
            | Move::Silence(p)
            | Move::Return(p)
            | Move::Welcome(p)
            | Move::GiveUp(p, _),
        ) = (self.eager, chosen)
        {
            self.work_all(&mut w, p);
        }
        if matches!(
            chosen,
            Move::Evict(_) | Move::Vanish(_) | Move::Crash(_) | Move::Break(..) | Move::TimeOut(..) | Move::Silence(_)
        ) {
            w.faults -= 1;
        }
        w.canonical();
        w
    }

    /// A process that has listed an empty world and waits.
    pub(super) fn ready(&self) -> Process {
        let watch = Watch { begun: true, complete: true, ..Watch::default() };
        Process { watches: [watch.clone(), watch], ..self.fresh() }
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
        Shell { process, policies: &self.policies, mutant: self.mutant }
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
        if !matches!(stray.request, Request::Find | Request::Seek) {
            self.strays.push(stray);
        }
    }
}

/// The side that a move may write to, so that its watches have more to read.
fn writes_to(w: &World, chosen: Move) -> Option<usize> {
    let request = match chosen {
        Move::Create(_) | Move::Delete(_) | Move::Force(_) | Move::Change(_) => return Some(HOST),
        Move::Start(_) | Move::End(_) | Move::Finish(_) | Move::Evict(_) | Move::Vanish(_) => return Some(TARGET),
        Move::Serve(p, id) => w.processes[p].entries.iter().find(|entry| entry.id == id)?.flight?.request,
        Move::Arrive(index) => w.strays[index].request,
        _ => return None,
    };
    match request {
        Request::Create { .. } | Request::Update { .. } | Request::Delete { .. } => Some(TARGET),
        Request::Report { .. } | Request::DeleteProxy => Some(HOST),
        Request::Find | Request::Seek => None,
    }
}

/// Whether a proxy wants to run.
pub(super) fn wanted(proxy: Option<&Proxy>) -> bool {
    proxy.is_some_and(Proxy::live)
}
