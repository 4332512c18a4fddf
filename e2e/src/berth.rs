//! A network of a test's own, in which a Longshore runs whose links can be cut without anybody else noticing.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Command,
    sync::atomic::{AtomicU8, Ordering},
};

use anyhow::{Context, Result, ensure};

/// The bridge that joins all clusters.
const BRIDGE: &str = "longshore0";

/// Which packets are dropped, seen from Longshore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// All.
    Both,
    /// Those that it sends.
    Outward,
    /// Those that are sent to it.
    Inward,
}

/// A network namespace with a link to the clusters' bridge. It goes with this value.
#[derive(Debug)]
pub struct Berth {
    name: String,
    link: String,
    ip: Ipv4Addr,
}

impl Berth {
    /// Makes one.
    pub fn new() -> Result<Self> {
        // Clusters have addresses below 100.
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let process = u8::try_from(std::process::id() % 16)?;
        for _ in 0..150 {
            let last = 100 + (process * 9 + NEXT.fetch_add(1, Ordering::Relaxed)) % 150;
            let (name, link) = (format!("lse2e-{last}"), format!("lse2e{last}"));
            // Whoever makes the namespace has the address.
            if ip(&["netns", "add", &name]).is_err() {
                continue;
            }
            let berth = Self { name, link, ip: Ipv4Addr::new(172, 30, 0, last) };
            berth.wire()?;
            return Ok(berth);
        }
        anyhow::bail!("no address is free on {BRIDGE}; `ip netns` lists what is left of earlier tests")
    }

    fn wire(&self) -> Result<()> {
        let (name, link, address) = (&self.name, &self.link, format!("{}/24", self.ip));
        ip(&["link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name])?;
        ip(&["link", "set", link, "master", BRIDGE, "up"])?;
        ip(&["-netns", name, "address", "add", &address, "dev", "eth0"])?;
        for device in ["lo", "eth0"] {
            ip(&["-netns", name, "link", "set", device, "up"])?;
        }
        ip(&["-netns", name, "route", "add", "default", "via", "172.30.0.1"])
    }

    /// Its address.
    pub fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    /// Takes the address of another one, which has none after that. What was open from the old address is lost.
    pub fn move_to(&self, other: &Self) -> Result<()> {
        let [ours, theirs] = [self.ip, other.ip].map(|ip| format!("{ip}/24"));
        ip(&["-netns", &other.name, "address", "del", &theirs, "dev", "eth0"])?;
        ip(&["-netns", &self.name, "address", "del", &ours, "dev", "eth0"])?;
        ip(&["-netns", &self.name, "address", "add", &theirs, "dev", "eth0"])?;
        ip(&["-netns", &self.name, "route", "replace", "default", "via", "172.30.0.1"])
    }

    /// Silently drops packets between here and this address.
    pub fn cut(&self, other: &str, cut: Cut) -> Result<()> {
        if cut != Cut::Inward {
            self.iptables(&["-A", "OUTPUT", "-d", other, "-j", "DROP"])?;
        }
        if cut != Cut::Outward {
            self.iptables(&["-A", "INPUT", "-s", other, "-j", "DROP"])?;
        }
        Ok(())
    }

    /// The same for one server of a machine that has several.
    pub fn cut_server(&self, other: SocketAddr, cut: Cut) -> Result<()> {
        let (ip, port) = (other.ip().to_string(), other.port().to_string());
        if cut != Cut::Inward {
            self.iptables(&["-A", "OUTPUT", "-p", "tcp", "-d", &ip, "--dport", &port, "-j", "DROP"])?;
        }
        if cut != Cut::Outward {
            self.iptables(&["-A", "INPUT", "-p", "tcp", "-s", &ip, "--sport", &port, "-j", "DROP"])?;
        }
        Ok(())
    }

    /// Drops nothing any more.
    pub fn heal(&self) -> Result<()> {
        self.iptables(&["-F"])
    }

    fn iptables(&self, args: &[&str]) -> Result<()> {
        let mut command = Command::new("nsenter");
        command.arg(self.entry()).args(["iptables", "-w"]).args(args);
        check(&mut command)
    }

    /// The option by which `nsenter` goes there.
    pub(crate) fn entry(&self) -> String {
        format!("--net=/run/netns/{}", self.name)
    }
}

impl Drop for Berth {
    fn drop(&mut self) {
        // Its end of the link goes with the namespace, and the other end with that.
        _ = ip(&["netns", "delete", &self.name]);
        _ = ip(&["link", "delete", &self.link]);
    }
}

fn ip(args: &[&str]) -> Result<()> {
    check(Command::new("ip").args(args))
}

fn check(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("failed to run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
