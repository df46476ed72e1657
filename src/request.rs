//! The request that the running task serves: its id, and why it failed.
//!
//! Both belong to the task, so that log lines, records and error bodies name the request without every function
//! passing it on. Work that a request starts in a task of its own is not part of it.

mod id;

use std::sync::{Arc, OnceLock};

use kms_wire::code::Code;

pub use self::id::{HEADER, Ids, RequestId};

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
        Arc::new(Self { id, body, failure: OnceLock::new() })
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

    /// Serves the request by `future`.
    pub fn scope<F: Future>(self: Arc<Self>, future: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, future)
    }
}

/// The result of `read` for the request of this task; `None` outside of one.
pub fn current<T>(read: impl FnOnce(&Context) -> T) -> Option<T> {
    CURRENT.try_with(|context| read(context)).ok()
}

/// The id of the request of this task, as it is written to logs and records.
pub fn logged_id() -> Option<String> {
    current(|context| context.id.logged().to_string())
}

/// Notes the error that the caller of this task's request gets. The first one counts: later ones only wrap it.
pub fn fail(code: Code, message: &str) {
    let _ = current(|context| {
        context.failure.get_or_init(|| {
            let is_kept = match code {
                Code::Internal | Code::Unavailable | Code::NotReady => true,
                Code::InvalidRequest
                | Code::Unauthenticated
                | Code::Denied
                | Code::AlreadyOnboarded
                | Code::UnknownMethod
                | Code::TooLarge
                | Code::TooManyRequests => false,
            };
            let end = message.floor_char_boundary(MAX_MESSAGE);
            Failure { code, message: is_kept.then(|| message[..end].to_owned()) }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

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
