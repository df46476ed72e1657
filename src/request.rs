//! The request that the running task serves: its id, why it failed, and its trace.
//!
//! Both belong to the task, so that log lines, records and error bodies name the request without every function
//! passing it on. Work that a request starts in a task of its own is part of it if [`spawn`] starts it.

mod id;
mod trace;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use kms_wire::code::Code;
use tokio::task::JoinHandle;

pub use self::id::{HEADER, Ids, RequestId};
pub use self::trace::{Asked, Attribute, MAX_WAITING, Recording, Remote, Span, SpanKind, Trace, Tracer};

tokio::task_local! {
    static CURRENT: Arc<Context>;
}

/// The longest kept message of a failure, in bytes.
const MAX_MESSAGE: usize = 256;

/// What is known of one request while it is served.
#[derive(Debug)]
pub struct Context {
    id: RequestId,
    body: ErrorBody,
    failure: OnceLock<Failure>,
    /// `None` where it is not traced.
    recording: Option<Recording>,
}

/// The keys of a JSON error body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorBody {
    /// Those of the peer, for requests that its clients send too.
    Peer,
    /// `error`, `code`, `message` and `request_id`, for routes that only we have.
    Full,
}

impl ErrorBody {
    /// The keys for a request to `path`.
    pub fn of(path: &str) -> Self {
        match path.starts_with("/api/") || path.starts_with("/v1/") {
            true => Self::Full,
            false => Self::Peer,
        }
    }
}

/// Why a request ended without a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The code that the caller got.
    pub code: Code,
    /// The beginning of the message that the caller got, where the fault is ours or that of a service we call.
    pub message: Option<String>,
}

impl Context {
    /// The context of a request with this id, whose errors in JSON have these keys.
    pub fn new(id: RequestId, body: ErrorBody) -> Arc<Self> {
        Self::traced(id, body, None)
    }

    /// [`Context::new`] of a request that may be traced.
    pub fn traced(id: RequestId, body: ErrorBody, recording: Option<Recording>) -> Arc<Self> {
        Arc::new(Self { id, body, failure: OnceLock::new(), recording })
    }

    /// Its id.
    pub fn id(&self) -> &RequestId {
        &self.id
    }

    /// The keys of its errors in JSON.
    pub fn error_body(&self) -> ErrorBody {
        self.body
    }

    /// Why it failed; `None` if it did not, or in another way than by an error of ours.
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.get()
    }

    /// Ends its trace, if there is one: `method` is a label, `status` that of the response.
    pub fn finish_trace(&self, method: &'static str, status: u16) {
        let Some(recording) = &self.recording else { return };
        let mut attributes = vec![
            ("http.response.status_code", Attribute::Number(status.into())),
            ("request.id", Attribute::Text(self.id.logged().to_string())),
        ];
        if let Some(failure) = self.failure() {
            attributes.push(("error.type", Attribute::Text(failure.code.name().to_owned())));
        }
        // As OpenTelemetry says, a fault of the caller is not one of the server.
        recording.finish(method, status >= 500, attributes);
    }

    /// Serves the request by `future`.
    pub fn scope<F: Future>(self: Arc<Self>, future: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, future)
    }
}

/// The result of `read` for the request of this task; `None` outside of one.
pub fn current<T>(read: impl FnOnce(&Context) -> T) -> Option<T> {
    CURRENT.try_with(|context| read(context)).ok()
}

/// Runs `future` in a task of its own, which goes on if the caller disconnects, as part of the request of this task.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    match CURRENT.try_with(Arc::clone) {
        Ok(context) => tokio::spawn(context.scope(future)),
        Err(_) => tokio::spawn(future),
    }
}

/// The id of the request of this task, as it is written to logs and records.
pub fn logged_id() -> Option<String> {
    current(|context| context.id.logged().to_string())
}

/// Adds work that ends now to the trace of this task's request. False outside of a request.
pub fn record(name: &'static str, kind: SpanKind, took: Duration, is_failed: bool) -> bool {
    current(|context| {
        if let Some(recording) = &context.recording {
            recording.add(name, kind, took, is_failed);
        }
    })
    .is_some()
}

/// The caller of this task's request has shown an operator's credentials, and may have asked for a trace.
pub fn trust_caller() {
    let _ = current(|context| context.recording.as_ref().map(Recording::trust));
}

/// Notes the error that the caller of this task's request gets. The first one counts: later ones only wrap it.
pub fn fail(code: Code, message: &str) {
    let _ = current(|context| {
        context.failure.get_or_init(|| {
            // NotReady is shown as the readiness of the KMS.
            let is_kept = matches!(code, Code::Internal | Code::Unavailable);
            let end = message.floor_char_boundary(MAX_MESSAGE);
            Failure { code, message: is_kept.then(|| message[..end].to_owned()) }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_of_its_own_belongs_to_the_request_that_started_it() {
        let id = async || spawn(async { logged_id() }).await.unwrap();
        assert_eq!(id().await, None);
        let context = Context::new(RequestId::ours(7), ErrorBody::Peer);
        assert_eq!(context.scope(id()).await.as_deref(), Some("00000000000000000000000000000007"));
    }

    #[tokio::test]
    async fn the_first_failure_of_the_task_is_kept_and_faults_of_callers_have_no_message() {
        assert_eq!(current(|_| ()), None);
        fail(Code::Internal, "outside of a request");
        for (code, message) in [(Code::Unavailable, Some("x".repeat(MAX_MESSAGE))), (Code::Denied, None)] {
            let context = Context::new(RequestId::ours(7), ErrorBody::Peer);
            Arc::clone(&context)
                .scope(async {
                    assert_eq!(logged_id().as_deref(), Some("00000000000000000000000000000007"));
                    fail(code, &"x".repeat(1000));
                    fail(Code::Internal, "a later one");
                })
                .await;
            assert_eq!(context.failure(), Some(&Failure { code, message }));
        }
    }
}
