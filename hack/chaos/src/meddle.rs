//! API servers that refuse, dawdle, close their watches and lose their answers, as a replica sees them: somebody stands in
//! between. Whoever cuts the link of a cluster by hand cuts it behind that one, who then passes on what is left of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use e2e::{Asked, Fault as Trouble, Meddler};

use crate::judge::Side;
use crate::plan::{Fault, Refusal, Strike};

/// Those who stand between one replica and each cluster.
pub(crate) struct Meddlers(BTreeMap<Side, Meddler>);

impl Meddlers {
    /// Before the host, and the targets in their order.
    pub(crate) fn before(kubeconfigs: &[PathBuf]) -> Result<Self> {
        let sides = std::iter::once(Side::Host).chain((0..).map(Side::Target));
        let all = sides.zip(kubeconfigs).map(|(side, path)| Ok((side, Meddler::before_kubeconfig(path)?)));
        Ok(Self(all.collect::<Result<_>>()?))
    }

    /// How the replica reaches a cluster.
    pub(crate) fn kubeconfig(&self, side: Side) -> PathBuf {
        self.0.get(&side).map_or_else(|| Path::new("").to_owned(), Meddler::kubeconfig)
    }

    /// Where the replica finds a cluster.
    pub(crate) fn address(&self, side: Side) -> Result<Option<SocketAddr>> {
        self.0.get(&side).map(Meddler::address).transpose()
    }

    /// Makes the trouble of a strike, if it is of this kind.
    pub(crate) fn strike(&self, strike: &Strike) {
        let (Fault::Refuse(side, _)
        | Fault::CloseWatches(side)
        | Fault::ExpireWatches(side)
        | Fault::Slow(side)
        | Fault::LoseAnswers(side)) = strike.fault
        else {
            return;
        };
        let Some(meddler) = self.0.get(&side) else { return };
        // All, or one of a few.
        let share = 1 + strike.pick % 3;
        match strike.fault {
            Fault::Refuse(_, refusal) => {
                let (code, retry_after) = match refusal {
                    Refusal::Overloaded => (429, Some(1)),
                    Refusal::Broken => (500, None),
                    Refusal::Unavailable => (503, None),
                };
                meddler.during(strike.lasts, one_of(share, |_| true), Trouble::Status(code, retry_after));
            }
            Fault::CloseWatches(_) => meddler.close_watches(),
            Fault::ExpireWatches(_) => meddler.expire_watches(),
            Fault::Slow(_) => {
                let late = Duration::from_millis(300 + strike.pick % 3700);
                meddler.during(strike.lasts, one_of(share, |_| true), Trouble::Late(late));
            }
            _ => {
                let bytes = usize::try_from(strike.pick % 200).unwrap_or(0);
                meddler.during(
                    strike.lasts,
                    one_of(share, |asked| !asked.is_watch() || asked.begins_with_list()),
                    Trouble::Cut(bytes),
                );
            }
        }
    }

    /// No more trouble.
    pub(crate) fn stop(&self) {
        self.0.values().for_each(Meddler::stop);
    }

    /// How many requests there were, and how many of them were refused.
    pub(crate) fn count(&self) -> (usize, usize) {
        let all: Vec<Asked> = self.0.values().flat_map(Meddler::asked).collect();
        (all.len(), all.iter().filter(|asked| matches!(asked.status, 429 | 500 | 503)).count())
    }
}

/// Every request of a kind, or every so-manieth.
fn one_of(share: u64, when: impl Fn(&Asked) -> bool + Send + Sync) -> impl Fn(&Asked) -> bool + Send + Sync {
    let met = AtomicU64::new(0);
    move |asked| when(asked) && met.fetch_add(1, Ordering::Relaxed).is_multiple_of(share)
}
