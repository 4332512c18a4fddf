//! Simulated nodes (`hack/clusters simulate`): pods on them start, complete, end and go as on a kubelet.

use std::{thread, time::Duration};

use e2e::{Result, Value, bail, container, deployment, ensure, job, json, run, secs};
use lab::{Lab, Simulation, UpOptions};

const NAME: &str = "sim";

/// Goes with its cluster.
struct Simulated(Lab);

impl Drop for Simulated {
    fn drop(&mut self) {
        _ = self.0.down_only(&[NAME]);
    }
}

impl Simulated {
    fn kubectl(&self, args: &[&str], input: &Value) -> Result<String> {
        run(self.0.kubectl(NAME)?.args(args), input.to_string().as_bytes())?.ok()
    }

    fn items(&self, args: &[&str]) -> Result<Vec<Value>> {
        let list: Value = serde_json::from_str(&self.kubectl(&[args, &["-o", "json"]].concat(), &Value::Null)?)?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    fn wait(&self, what: &str, args: &[&str], done: impl Fn(&[Value]) -> bool) -> Result<Vec<Value>> {
        for _ in 0..300 {
            let items = self.items(args)?;
            if done(&items) {
                return Ok(items);
            }
            thread::sleep(Duration::from_millis(200));
        }
        bail!("waited in vain for {what}: {:?}", self.items(args)?)
    }
}

fn condition(object: &Value, type_: &str) -> Value {
    let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|one| one["type"] == type_).map_or(Value::Null, |one| one["status"].clone())
}

#[test]
fn pods_start_complete_end_and_go() -> Result<()> {
    let cluster = Simulated(Lab::open()?);
    cluster.0.up_with(&[NAME], &UpOptions { kubelet: Some(false), ..UpOptions::default() })?;
    let simulation = Simulation { nodes: 2, pods: 20, ..Simulation::default() };
    cluster.0.simulate(NAME, &simulation)?;
    let nodes = cluster.items(&["get", "nodes"])?;
    ensure!(nodes.len() == 2 && nodes.iter().all(|node| condition(node, "Ready") == "True"), "{nodes:?}");
    ensure!(nodes[0]["status"]["allocatable"]["pods"] == "20", "{}", nodes[0]);

    let spec = json!({"containers": [container("main", "exit 0")], "initContainers": [container("init", "exit 0")]});
    for mut object in [deployment("web", 25, &spec), job("sum", 2, 2, &spec)] {
        object["apiVersion"] = if object["kind"] == "Job" { "batch/v1".into() } else { "apps/v1".into() };
        cluster.kubectl(&["create", "-f", "-"], &object)?;
    }
    let ready = |pods: &[Value]| pods.len() == 25 && pods.iter().all(|pod| condition(pod, "Ready") == "True");
    let pods = cluster.wait("25 pods to be Ready", &["get", "pods", "-l", "app=web"], ready)?;
    ensure!(pods.iter().any(|pod| pod["spec"]["nodeName"] == "kwok-1"), "{pods:?}");
    ensure!(pods.iter().all(|pod| pod["status"]["containerStatuses"][0]["state"]["running"].is_object()), "{pods:?}");
    ensure!(pods.iter().all(|pod| pod["status"]["podIP"].is_string()), "{pods:?}");
    cluster.wait("the Job to complete", &["get", "jobs"], |jobs| condition(&jobs[0], "Complete") == "True")?;

    // Asked again, it changes what is there; from now on pods take their time.
    cluster.0.simulate(NAME, &Simulation { pace: secs(2), ..simulation.clone() })?;
    cluster.kubectl(&["delete", "deployment/web", "job/sum", "--wait=false"], &Value::Null)?;
    let ended = |pods: &[Value]| pods.iter().any(|pod| pod["status"]["phase"] == "Succeeded");
    cluster.wait("pods to end", &["get", "pods", "-l", "app=web"], ended)?;
    cluster.wait("all pods to go", &["get", "pods"], <[Value]>::is_empty)?;
    cluster.0.simulate(NAME, &Simulation { nodes: 1, ..simulation })?;
    ensure!(cluster.items(&["get", "nodes"])?.len() == 1, "the second one goes");
    Ok(())
}
