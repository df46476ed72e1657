//! `grpc.health.v1.Health`: the readiness of this KMS for gRPC health probes.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, stream};
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::api::Service;
use crate::api::readiness::{Readiness, Report};

/// A service name that is SERVING whenever the process responds: for liveness probes.
const LIVENESS: &str = "liveness";

/// Reports the health of the services on one listener.
pub(super) struct Probe {
    readiness: Arc<Readiness>,
    service: Service,
}

/// What a service name stands for.
#[derive(Clone, Copy)]
enum Subject {
    /// The process.
    Process,
    /// Whether keys can be released.
    Keys,
}

impl Probe {
    /// The health service of the listener and phase that serve `service`.
    pub(super) fn server(readiness: Arc<Readiness>, service: Service) -> HealthServer<Self> {
        HealthServer::new(Self { readiness, service })
    }

    /// The empty name stands for the KMS as a whole, which is SERVING when it can release keys.
    fn subject(&self, name: &str) -> Result<Subject, Status> {
        match (name, self.service) {
            ("", _) => Ok(Subject::Keys),
            (LIVENESS, _) => Ok(Subject::Process),
            (name, service) if name.strip_prefix("kms.") == Some(service.name()) => Ok(match service {
                Service::Kms => Subject::Keys,
                Service::Onboard | Service::Admin => Subject::Process,
            }),
            _ => Err(Status::not_found("service not registered")),
        }
    }
}

impl Subject {
    fn status(self, report: &Report) -> ServingStatus {
        match self {
            Self::Keys if !report.is_ready() => ServingStatus::NotServing,
            Self::Keys | Self::Process => ServingStatus::Serving,
        }
    }
}

type Statuses = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Health for Probe {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let subject = self.subject(&request.get_ref().service)?;
        Ok(Response::new(response(subject.status(&self.readiness.report()))))
    }

    type WatchStream = Statuses;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Statuses>, Status> {
        let subject = self.subject(&request.get_ref().service)?;
        // Checks now, so that the first response is current.
        self.readiness.report();
        let watched = Watched { subject, reports: self.readiness.watch(), last: None };
        Ok(Response::new(Box::pin(stream::unfold(watched, Watched::next))))
    }
}

/// What a watcher has been told so far.
struct Watched {
    subject: Subject,
    reports: watch::Receiver<Report>,
    last: Option<ServingStatus>,
}

impl Watched {
    /// The current status, then each change. Ends with the phase.
    async fn next(mut self) -> Option<(Result<HealthCheckResponse, Status>, Self)> {
        loop {
            let status = self.subject.status(&self.reports.borrow_and_update());
            if self.last != Some(status) {
                self.last = Some(status);
                return Some((Ok(response(status)), self));
            }
            self.reports.changed().await.ok()?;
        }
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}
