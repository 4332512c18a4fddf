//! A node on the in-memory provider, in a few lines: `cargo run --example memory -- NAME ADDRESS [polled]`.
//!
//! The host is that of the kubeconfig; ADDRESS is where its API server reaches this machine. Ctrl-C ends it.

use std::sync::Arc;

use kube::Client;
use longshore::kubelet::builder::NodeBuilder;
use longshore::kubelet::host::Host;
use longshore::memory::Memory;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Before anything builds a client.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut arguments = std::env::args().skip(1);
    let (Some(name), Some(address)) = (arguments.next(), arguments.next()) else {
        return Err("usage: memory NAME ADDRESS [polled]".into());
    };
    let host = kube::Config::infer().await?;
    let memory = Memory::new().looking_at(Arc::new(Host::new(Client::try_from(host.clone())?)));
    let memory = match arguments.next().as_deref() {
        Some("polled") => memory.polled(),
        _ => memory,
    };
    let node = NodeBuilder::new(name, host, Arc::new(memory)).address(address.parse()?, 0).build().await?;
    let stop = CancellationToken::new();
    let signal = stop.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            signal.cancel();
        }
    });
    Ok(node.run(stop).await?)
}
