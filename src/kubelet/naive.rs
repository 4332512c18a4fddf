//! A node that is always there: for providers whose capacity never changes and whose other side always answers.

use async_trait::async_trait;
use tokio::sync::watch;

use super::provider::{NodeProvider, NodeReport, Source};

/// The naive [`NodeProvider`]. A provider that has nothing better to say keeps one and passes calls on.
#[derive(Debug)]
pub struct NaiveNode {
    report: watch::Sender<NodeReport>,
}

impl NaiveNode {
    /// A node that is made of this for ever.
    pub fn new(report: NodeReport) -> Self {
        Self { report: watch::Sender::new(report) }
    }
}

#[async_trait]
impl NodeProvider for NaiveNode {
    async fn ping(&self) -> Result<(), Source> {
        Ok(())
    }

    fn node_status(&self) -> watch::Receiver<NodeReport> {
        self.report.subscribe()
    }
}
