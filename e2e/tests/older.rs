//! An API server that cannot begin a watch with a list, as those before Kubernetes 1.34.

use e2e::{IDLE, Meddler, Result, World, container, ensure};
use lab::{Lab, Simulation, UpOptions};

const OLD: &str = "unlisting";

/// It goes with this.
struct Old(Lab);

impl Drop for Old {
    fn drop(&mut self) {
        _ = self.0.down_only(&[OLD]);
    }
}

#[test]
fn lists_come_in_pages_where_a_watch_cannot_begin_with_one() -> Result<()> {
    let old = Old(Lab::open()?);
    let args = vec!["--feature-gates=WatchList=false".to_owned()];
    old.0.up_with(&[OLD], &UpOptions { kubelet: Some(false), api_server_args: Some(args), ..UpOptions::default() })?;
    old.0.simulate(OLD, &Simulation::default())?;
    let target = Meddler::before(&World::cluster(OLD, "default")?)?;
    let world = World::elsewhere("unlisting", "host", OLD, |options| options.target = target.kubeconfig())?;
    world.wait_for_node()?;
    world.host.create(world.pod("web", &[container("main", IDLE)]))?;
    let proxy = world.host.wait_for_ready("web")?;
    let lists = || target.asked().into_iter().filter(|asked| asked.is_list_of("pods"));
    ensure!(lists().any(|asked| asked.begins_with_list() && asked.status == 422), "it was not refused");
    let paged = |from: usize| lists().skip(from).any(|asked| asked.query.contains("limit=") && asked.status == 200);
    ensure!(paged(0), "no pages were asked for");

    // Where a list is due again, it is known how to ask for it.
    let before = lists().count();
    target.expire_watches();
    world.host.wait("another list", e2e::secs(20), |_| {
        ensure!(paged(before), "there was none yet");
        Ok(())
    })?;
    ensure!(!lists().skip(before).any(|asked| asked.begins_with_list()), "it was asked in vain again");
    world.host.delete("pods", "web")?;
    world.host.wait_for_gone(&proxy)
}
