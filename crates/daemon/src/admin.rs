//! The admin HTTP server: is it alive, is it ready, what does it count, which version is it.
//!
//! `/livez` answers as long as the process does. `/readyz` asks the server's checks; `?verbose` lists them.

use crate::Error;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use std::fmt::Write;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::TcpListener;

/// One thing that must hold for the server to do its work.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Check {
    /// A short name, stable: scripts read it.
    pub name: &'static str,
    /// Why it does not hold, in one line; `None`: it holds.
    pub failing: Option<String>,
}

/// The checks as of now. Called for each request: must not block.
pub type Readiness = Arc<dyn Fn() -> Vec<Check> + Send + Sync>;

/// Who answers.
#[derive(Clone)]
pub struct Admin {
    /// The program's name.
    pub program: &'static str,
    /// Its version.
    pub version: &'static str,
    /// Its checks.
    pub readiness: Readiness,
}

/// Histograms forget and counters settle at this pace.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Serves the admin paths and whatever `extra` adds, until `shutdown` resolves; then finishes what is open.
///
/// # Errors
/// [`Error::Metrics`] if another recorder is in place; [`Error::Listen`] if the listener fails.
pub async fn serve(
    listener: TcpListener,
    admin: Admin,
    extra: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    let metrics = recorder()?;
    let router = router(admin, metrics.clone()).merge(extra);
    let address = listener.local_addr().map(|a| a.to_string()).unwrap_or_default();
    let server = axum::serve(listener, router).with_graceful_shutdown(shutdown).into_future();
    let mut upkeep = tokio::time::interval(UPKEEP_EVERY);
    tokio::pin!(server);
    loop {
        tokio::select! {
            ended = &mut server => {
                return ended.map_err(|source| Error::Listen { address, flag: "--http", source });
            }
            _ = upkeep.tick() => metrics.run_upkeep(),
        }
    }
}

fn router(admin: Admin, metrics: PrometheusHandle) -> Router {
    let version = axum::Json(serde_json::json!({ "program": admin.program, "version": admin.version }));
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz).with_state(admin.readiness))
        .route("/version", get(move || async move { version }))
        .route(
            "/metrics",
            get(move || async move {
                ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.render())
            }),
        )
}

async fn readyz(State(readiness): State<Readiness>, uri: Uri) -> Response {
    let checks = readiness();
    let ready = checks.iter().all(|check| check.failing.is_none());
    let verbose = uri.query().is_some_and(|query| query.split('&').any(|word| word.starts_with("verbose")));
    let mut text = String::new();
    for check in &checks {
        // Writing to a String does not fail.
        let _infallible = match &check.failing {
            None if verbose => writeln!(text, "[+] {} ok", check.name),
            None => Ok(()),
            Some(why) => writeln!(text, "[-] {}: {why}", check.name),
        };
    }
    if ready && !verbose {
        text.push_str("ok\n");
    }
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, text).into_response()
}

/// The process's metrics: one recorder, whoever asks first installs it.
fn recorder() -> Result<PrometheusHandle, Error> {
    static RECORDER: OnceLock<Result<PrometheusHandle, String>> = OnceLock::new();
    let install = || PrometheusBuilder::new().install_recorder().map_err(|error| error.to_string());
    RECORDER.get_or_init(install).clone().map_err(Error::Metrics)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn ask(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// Guards against a server that says it is ready while a check fails, and against paths that vanish.
    #[tokio::test]
    async fn readiness_follows_the_checks() {
        let ready = Arc::new(AtomicBool::new(false));
        let seen = ready.clone();
        let readiness: Readiness = Arc::new(move || {
            let failing = (!seen.load(Ordering::SeqCst)).then(|| "not yet".to_owned());
            vec![Check { name: "view", failing }, Check { name: "disk", failing: None }]
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let extra = Router::new().route("/kvs/key-count", get(|| async { "3" }));
        let admin = Admin { program: "test", version: "1", readiness };
        let server = tokio::spawn(serve(listener, admin, extra, async move {
            stopped.await.unwrap();
        }));
        assert!(ask(address, "/livez").await.starts_with("HTTP/1.1 200"));
        let answer = ask(address, "/readyz?verbose").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.contains("[-] view: not yet\n[+] disk ok\n"), "{answer}");
        ready.store(true, Ordering::SeqCst);
        assert!(ask(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(ask(address, "/version").await.contains(r#""program":"test""#));
        assert!(ask(address, "/metrics").await.starts_with("HTTP/1.1 200"));
        assert!(ask(address, "/kvs/key-count").await.ends_with('3'));
        stop.send(()).unwrap();
        server.await.unwrap().unwrap();
    }
}
