//! When a certificate is renewed, and what is wrong with one. Pure.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use super::CertificateSource;
use crate::kubelet::server::Described;

/// The longest that a wait lasts before the clock is looked at again.
const STEP: Duration = Duration::from_secs(3600);

/// The shortest time between two renewals, so that a signer of very short certificates is not flooded.
const SHORTEST: Duration = Duration::from_secs(5);

/// The first rest after a failure; each further one is twice as long.
const FIRST_REST: Duration = Duration::from_secs(5);

/// The longest rest after a failure.
const LONGEST_REST: Duration = Duration::from_secs(600);

/// When a certificate is renewed that was got at `since` and is valid until then: after four fifths of that time.
///
/// It counts from when it was got, not from when it is valid: signers reach into the past, for clocks that are behind (5
/// minutes in the kube-controller-manager), which is most of the life of a very short certificate.
pub fn due(since: SystemTime, until: SystemTime) -> SystemTime {
    let life = until.duration_since(since).unwrap_or_default();
    since + (life * 4 / 5).max(SHORTEST)
}

/// How long to wait at `now` for `due`; `None` when it is over.
pub fn pause(now: SystemTime, due: SystemTime) -> Option<Duration> {
    let left = due.duration_since(now).ok().filter(|left| !left.is_zero());
    left.map(|left| left.min(STEP))
}

/// How long to rest after so many failures in a row.
pub fn rest(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    (FIRST_REST * 2_u32.pow(doublings)).min(LONGEST_REST)
}

/// What is wrong with a certificate that somebody else keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It is not valid any more.
    Expired,
    /// Less than a fifth of its time is left, and nobody has renewed it.
    Old,
    /// It does not stand for the address of the node.
    OtherAddress(IpAddr),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired => f.write_str(
                "the certificate in the file of --tls-cert-file has expired: API servers that verify kubelets refuse it; \
                 write a new one, which is read within seconds",
            ),
            Self::Old => f.write_str(
                "the certificate in the file of --tls-cert-file has used up four fifths of its time and is not renewed; \
                 write a new one, which is read within seconds",
            ),
            Self::OtherAddress(address) => write!(
                f,
                "the certificate in the file of --tls-cert-file does not name {address}, at which the node is reached: API \
                 servers that verify kubelets refuse it; add this IP address to its subject alternative names"
            ),
        }
    }
}

/// What is wrong with this certificate for a node at `address`, if anything.
pub fn trouble(certificate: &Described, address: IpAddr, now: SystemTime) -> Option<Trouble> {
    if now >= certificate.until {
        Some(Trouble::Expired)
    } else if !certificate.addresses.contains(&address) {
        Some(Trouble::OtherAddress(address))
    } else if now >= due(certificate.from, certificate.until) {
        Some(Trouble::Old)
    } else {
        None
    }
}

/// What to do about a client that refuses a certificate of this source.
pub fn refusal(source: &CertificateSource) -> &'static str {
    match source {
        CertificateSource::SelfSigned => {
            "a client refused the self-signed certificate of this node. If kubectl logs and exec fail with an x509 error, the \
             API server verifies kubelets (--kubelet-certificate-authority): run Longshore with --serving-certificate=host, or \
             give it --tls-cert-file and --tls-private-key-file"
        }
        CertificateSource::Files { .. } => {
            "a client refused the certificate of --tls-cert-file. If kubectl logs and exec fail with an x509 error, it has to \
             be signed by the CA of the API server's --kubelet-certificate-authority, and to name the address of the node"
        }
        CertificateSource::Host { .. } => {
            "a client refused the certificate of this node. If kubectl logs and exec fail with an x509 error, it is not signed \
             yet (see kubectl get csr), or the API server's --kubelet-certificate-authority is another CA than that of the \
             signer kubernetes.io/kubelet-serving"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_certificate_is_renewed_after_four_fifths_of_what_was_left_of_its_time() {
        let now = SystemTime::UNIX_EPOCH + seconds(1_000_000);
        assert_eq!(due(now, now + seconds(1000)), now + seconds(800));
        assert_eq!(due(now, now + seconds(1)), now + seconds(5), "no signer is flooded");
        assert_eq!(due(now, now - seconds(9)), now + seconds(5), "nor for certificates of the past");
    }

    #[test]
    fn a_long_wait_looks_at_the_clock_now_and_then() {
        let now = SystemTime::UNIX_EPOCH + seconds(1_000_000);
        assert_eq!(pause(now, now + seconds(86_400)), Some(STEP));
        assert_eq!(pause(now, now + seconds(7)), Some(seconds(7)));
        assert_eq!(pause(now, now), None);
        assert_eq!(pause(now + seconds(5), now), None);
    }

    #[test]
    fn failures_are_repeated_ever_less_often() {
        assert_eq!([1, 2, 3, 20, u32::MAX].map(rest), [5, 10, 20, 600, 600].map(seconds));
    }

    #[test]
    fn what_is_wrong_with_a_given_certificate_is_said() {
        let now = SystemTime::UNIX_EPOCH + seconds(1_000_000);
        let address = IpAddr::from([10, 0, 0, 1]);
        let certificate = |from, until, addresses| Described {
            from: SystemTime::UNIX_EPOCH + seconds(from),
            until: SystemTime::UNIX_EPOCH + seconds(until),
            addresses,
        };
        let good = certificate(999_000, 1_001_000, vec![address]);
        assert_eq!(trouble(&good, address, now), None);
        assert_eq!(trouble(&certificate(0, 1_001_000, vec![address]), address, now), Some(Trouble::Old));
        assert_eq!(trouble(&certificate(0, 1_000_000, vec![address]), address, now), Some(Trouble::Expired));
        let other = trouble(&certificate(999_000, 1_001_000, vec![]), address, now);
        assert_eq!(other, Some(Trouble::OtherAddress(address)));
    }
}
