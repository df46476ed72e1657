//! gRPC over the same connections and identities as the other clients.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use cvm_kms::proto::kms_client::KmsClient;
use cvm_kms::proto::onboard_client::OnboardClient;
use futures_util::future::BoxFuture;
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::body::Body;

use super::{Caller, DOMAIN};

/// One HTTP/2 connection as a tower service, which the generated clients run on.
#[derive(Clone)]
pub struct Channel(http2::SendRequest<Body>);

impl tower::Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, hyper::Result<Response<Incoming>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

impl Channel {
    /// Connects like `caller`, over TLS.
    pub async fn open(caller: &Caller, address: SocketAddr) -> io::Result<Self> {
        let tcp = TcpStream::connect(address).await?;
        let name = ServerName::try_from(DOMAIN).expect("a name");
        let stream = TlsConnector::from(Arc::new(caller.http2().tls())).connect(name, tcp).await?;
        Self::over(stream).await
    }

    /// Over any stream: HTTP/2 with prior knowledge.
    pub async fn over(
        stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    ) -> io::Result<Self> {
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }
}

/// The origin that the clients need for their requests.
pub fn origin() -> Uri {
    Uri::from_static("https://localhost")
}

impl Caller {
    pub async fn channel(&self) -> io::Result<Channel> {
        Channel::open(self, self.address()).await
    }

    /// The main service over gRPC.
    pub async fn grpc(&self) -> KmsClient<Channel> {
        KmsClient::with_origin(self.channel().await.expect("a connection"), origin())
    }

    /// The onboarding service over gRPC.
    pub async fn grpc_onboard(&self) -> OnboardClient<Channel> {
        OnboardClient::with_origin(self.channel().await.expect("a connection"), origin())
    }
}
