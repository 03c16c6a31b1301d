//! Nodes in this process, each with a directory of its own, and a client that asks any of them.

use daemon::DataDirectory;
use std::path::{Path, PathBuf};
use std::time::Duration;
use storaged::{Config, Error};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use types::ErrorCode;
use wire::v1;
use wire::v1::kv_client::KvClient;
use wire::v1::request::Operation;
use wire::v1::response::Result as Outcome;

/// A running node, on a runtime of its own so that it can end as a process does.
pub(crate) struct TestNode {
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), Error>>,
    runtime: Option<Runtime>,
    directory: PathBuf,
}

impl TestNode {
    /// Starts a node in `directory`.
    pub(crate) fn start(directory: &Path, leaders: &[String]) -> TestNode {
        TestNode::start_with(config(directory, leaders))
    }

    pub(crate) fn start_with(config: Config) -> TestNode {
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async {
            stopped.await.ok();
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let directory = config.data_dir.clone();
        let task = runtime.spawn(storaged::run(config, shutdown));
        TestNode { stop: Some(stop), task, runtime: Some(runtime), directory }
    }

    /// Ends it well.
    pub(crate) async fn stop(mut self) {
        self.stop.take().unwrap().send(()).ok();
        (&mut self.task).await.unwrap().unwrap();
    }

    /// Ends it as a crash does: whatever it was doing stays undone.
    pub(crate) async fn crash(mut self) {
        let runtime = self.runtime.take().unwrap();
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(Duration::from_secs(10))).await.unwrap();
        // The log's thread outlives the runtime, unlike a process; it holds the directory's lock until it ends.
        while DataDirectory::open(&self.directory).is_err() {
            tokio::task::yield_now().await;
        }
    }

    /// Waits for it to end by itself.
    pub(crate) async fn ended(mut self) -> Result<(), Error> {
        (&mut self.task).await.unwrap()
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub(crate) fn config(directory: &Path, leaders: &[String]) -> Config {
    Config {
        listen: "127.0.0.1:0".to_owned(),
        http: "127.0.0.1:0".to_owned(),
        shards: 2,
        segment_bytes: 1 << 20,
        ..Config::new(leaders.to_vec(), directory.to_owned())
    }
}

/// Asks one node.
pub(crate) struct Asker {
    kv: KvClient<Channel>,
    counter: u64,
}

impl Asker {
    pub(crate) fn new(address: &str) -> Asker {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
        Asker { kv: KvClient::new(endpoint.connect_lazy()), counter: 0 }
    }

    /// One attempt.
    pub(crate) async fn call(&mut self, operation: Operation) -> Result<v1::Response, tonic::Status> {
        let request = v1::Request { timeout_ms: 5_000, operation: Some(operation), ..Default::default() };
        Ok(self.kv.call(request).await?.into_inner())
    }

    /// Attempts until the answer is not "try again". Mutations keep their request id, so nothing happens twice.
    pub(crate) async fn insist(&mut self, operation: Operation) -> Outcome {
        loop {
            if let Ok(response) = self.call(operation.clone()).await {
                match response.result.unwrap() {
                    Outcome::Error(error) if ErrorCode::from_number(error.code).is_retryable() => {}
                    other => return other,
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn put(&mut self, key: &str, value: &str) -> v1::Written {
        let put = v1::Put {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            condition: None,
            request: Some(self.request_id()),
            ttl_ms: 0,
            lease: 0,
            fence: None,
        };
        match self.insist(Operation::Put(put)).await {
            Outcome::Written(written) => written,
            other => panic!("put {key}: {other:?}"),
        }
    }

    pub(crate) async fn get(&mut self, key: &str) -> Option<String> {
        match self.insist(Operation::Get(v1::Get { key: key.to_owned().into() })).await {
            Outcome::Found(found) => Some(String::from_utf8(found.value.to_vec()).unwrap()),
            Outcome::NotFound(_) => None,
            other => panic!("get {key}: {other:?}"),
        }
    }

    pub(crate) fn request_id(&mut self) -> v1::RequestId {
        self.counter += 1;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        v1::RequestId { client: std::ptr::from_ref(self) as u64, counter: self.counter, stamp: now.as_millis() as u64 }
    }
}
