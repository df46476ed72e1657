//! The breaker, the queue and the retry, over loopback.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::observer::ShedBy;

/// Does not respond until it has recovered.
struct Sick {
    base: String,
    asked: Arc<AtomicUsize>,
    is_well: Arc<AtomicBool>,
}

impl Sick {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let sick = Self { base, asked: Arc::default(), is_well: Arc::default() };
        let (asked, is_well) = (sick.asked.clone(), sick.is_well.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (asked, is_well) = (asked.clone(), is_well.clone());
                tokio::spawn(async move {
                    let mut chunk = [0; 8192];
                    while let Ok(1..) = stream.read(&mut chunk).await {
                        asked.fetch_add(1, Ordering::SeqCst);
                        if !is_well.load(Ordering::SeqCst) {
                            std::future::pending::<()>().await;
                        }
                        let body = allowing().to_string();
                        let answer =
                            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        sick
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn recover(&self) {
        self.is_well.store(true, Ordering::SeqCst);
    }
}

/// What was reported to it.
#[derive(Default)]
struct Counts {
    is_open: AtomicBool,
    openings: AtomicUsize,
    shed_by_breaker: AtomicUsize,
    shed_by_queue: AtomicUsize,
}

impl WebhookObserver for Counts {
    fn request_shed(&self, by: ShedBy) {
        let counter = match by {
            ShedBy::Breaker => &self.shed_by_breaker,
            ShedBy::Queue => &self.shed_by_queue,
        };
        counter.fetch_add(1, Ordering::SeqCst);
    }

    fn breaker_opened(&self) {
        self.is_open.store(true, Ordering::SeqCst);
        self.openings.fetch_add(1, Ordering::SeqCst);
    }

    fn breaker_closed(&self) {
        self.is_open.store(false, Ordering::SeqCst);
    }
}

impl Counts {
    fn is_open(&self) -> bool {
        self.is_open.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn the_breaker_opens_and_a_probe_closes_it_without_a_caller() {
    let sick = Sick::new().await;
    let webhook = webhook(&sick.base);
    let counts = Arc::new(Counts::default());
    webhook.report_to(counts.clone());
    assert!(!counts.is_open());
    // One after the other, so that each one is sent.
    let mut asked = 0;
    while !counts.is_open() {
        assert!(decide(&webhook).await.is_err());
        asked += 1;
        assert!(asked <= 5, "five failures open it");
    }
    assert_eq!(asked, 5);
    let began = Instant::now();
    for _ in 0..100 {
        let detail = detail(decide(&webhook).await);
        assert!(
            detail.contains("requests to the webhook are paused, the webhook did not answer in time"),
            "{detail}"
        );
    }
    assert!(began.elapsed() < QUICK.total * 10, "at once: {:?}", began.elapsed());
    assert_eq!(counts.openings.load(Ordering::SeqCst), 1);
    assert_eq!(counts.shed_by_breaker.load(Ordering::SeqCst), 100);

    sick.recover();
    let began = Instant::now();
    while counts.is_open() {
        assert!(began.elapsed() < Duration::from_secs(60), "the probe finds the service without a caller");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(decide(&webhook).await.is_ok());
    assert_eq!(webhook.last_error(), None);
}

#[tokio::test]
async fn an_open_breaker_asks_rarely() {
    let sick = Sick::new().await;
    let webhook = webhook(&sick.base);
    for _ in 0..5 {
        assert!(decide(&webhook).await.is_err());
    }
    let before = sick.asked();
    let began = Instant::now();
    while began.elapsed() < breaker::RETRY * 2 {
        let _ = decide(&webhook).await;
    }
    // One probe and one trial each second.
    let seconds = began.elapsed().as_secs() as usize + 1;
    assert!(sick.asked() - before <= 2 * seconds, "{} in {seconds} s", sick.asked() - before);
}

#[tokio::test]
async fn any_response_leaves_the_breaker_closed() {
    for server in [
        Server::answering("500 Internal Server Error", b"oops").await,
        Server::answering("404 Not Found", b"").await,
        Server::answering("200 OK", b"<html>").await,
    ] {
        let webhook = server.webhook();
        for number in 1..=20 {
            assert!(decide(&webhook).await.is_err());
            assert_eq!(server.requests.lock().unwrap().len(), number, "each is asked");
        }
    }
}

#[tokio::test]
async fn a_gateway_without_its_service_opens_the_breaker() {
    for status in ["502 Bad Gateway", "503 Service Unavailable", "504 Gateway Timeout"] {
        let server = Server::answering(status, b"gone").await;
        let webhook = server.webhook();
        for _ in 0..20 {
            assert!(decide(&webhook).await.is_err());
        }
        let asked = server.requests.lock().unwrap().len();
        assert!((5..20).contains(&asked), "{status}: {asked}");
    }
}

#[tokio::test]
async fn only_requests_cancelled_late_count_as_failures() {
    let sick = Sick::new().await;
    let total = Duration::from_secs(120);
    let with_slow = |slow| {
        let settings = settings::Webhook::at(Endpoint::parse(&sick.base).unwrap());
        Webhook::with_bounds(&settings, Bounds { total, slow, ..QUICK }).unwrap()
    };
    let early = with_slow(Duration::from_secs(60));
    for _ in 0..20 {
        let _ = tokio::time::timeout(Duration::from_millis(10), decide(&early)).await;
    }
    assert!(!early.backend.breaker.is_open_since(1));
    let late = with_slow(Duration::from_millis(20));
    for _ in 0..5 {
        assert!(tokio::time::timeout(Duration::from_millis(40), decide(&late)).await.is_err());
    }
    assert!(late.backend.breaker.is_open_since(1));
}

#[tokio::test]
async fn a_request_that_hangs_takes_one_slot_only() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut chunk = [0; 8192];
                while let Ok(length @ 1..) = stream.read(&mut chunk).await {
                    if String::from_utf8_lossy(&chunk[..length]).contains("bootAuth/kms") {
                        std::future::pending::<()>().await;
                    }
                    let body = allowing().to_string();
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            });
        }
    });
    let bounds = Bounds { total: Duration::from_secs(60), ..QUICK };
    let webhook = settings::Webhook::at(Endpoint::parse(&base).unwrap());
    let webhook = Arc::new(Webhook::with_bounds(&webhook, bounds).unwrap());
    let hanging: Vec<_> = (1..QUICK.concurrent)
        .map(|_| {
            let webhook = webhook.clone();
            tokio::spawn(async move { ask(&webhook, Subject::Kms(&BootInfo::example())).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    for _ in 0..50 {
        assert!(decide(&webhook).await.is_ok());
    }
    assert!(hanging.iter().all(|task| !task.is_finished()));
    hanging.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn an_app_or_another_kms_that_hangs_takes_only_its_own_slots() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let hang = Arc::new(AtomicUsize::new(0));
    let hung = hang.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let hung = hung.clone();
            tokio::spawn(async move {
                let mut chunk = [0; 8192];
                while let Ok(length @ 1..) = stream.read(&mut chunk).await {
                    if String::from_utf8_lossy(&chunk[..length]).contains(&"99".repeat(20)) {
                        hung.fetch_add(1, Ordering::SeqCst);
                        std::future::pending::<()>().await;
                    }
                    let body = allowing().to_string();
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            });
        }
    });
    // With the real limits, and with time-outs that do not end the test.
    let endless = Duration::from_secs(600);
    let bounds = Bounds { connect: endless, total: endless, queue_timeout: endless, ..BOUNDS };
    let webhook = settings::Webhook::at(Endpoint::parse(&base).unwrap());
    let webhook = Arc::new(Webhook::with_bounds(&webhook, bounds).unwrap());
    let hanging: Vec<_> = (0..BOUNDS.concurrent * 2)
        .map(|number| {
            let webhook = webhook.clone();
            tokio::spawn(async move {
                let caller = BootInfo { app_id: vec![0x99; 20], ..BootInfo::example() };
                let subject = if number % 2 == 0 { Subject::App(&caller) } else { Subject::Kms(&caller) };
                ask(&webhook, subject).await
            })
        })
        .collect();
    let shares = 2 * BOUNDS.concurrent_each;
    let began = Instant::now();
    while hang.load(Ordering::SeqCst) < shares {
        assert!(began.elapsed() < Duration::from_secs(60), "they are asked");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for _ in 0..20 {
        let own = BootInfo::example();
        let others =
            async { (decide(&webhook).await, webhook.decide(Subject::Kms(&own), FairnessKey::Own).await) };
        let (app, own) = tokio::time::timeout(Duration::from_secs(60), others).await.expect("not held up");
        assert!(app.is_ok() && own.is_ok());
    }
    assert_eq!(hang.load(Ordering::SeqCst), shares);
    assert!(hanging.iter().all(|task| !task.is_finished()));
    hanging.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn beyond_the_queue_requests_are_shed_at_once() {
    let server = Server::new(Behaviour::Hang).await;
    let bounds = Bounds { concurrent: 1, queued: 2, ..QUICK };
    let webhook = settings::Webhook::at(Endpoint::parse(&server.base).unwrap());
    let webhook = Arc::new(Webhook::with_bounds(&webhook, bounds).unwrap());
    let counts = Arc::new(Counts::default());
    webhook.report_to(counts.clone());
    let queued: Vec<_> = (0..3)
        .map(|_| {
            let webhook = webhook.clone();
            tokio::spawn(async move { decide(&webhook).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let detail = detail(decide(&webhook).await);
    assert!(detail.contains("too many requests wait for the webhook"), "{detail}");
    assert_eq!(counts.shed_by_queue.load(Ordering::SeqCst), 1);
    for task in queued {
        assert!(task.await.unwrap().is_err());
    }
}

/// The bytes before the connection ended, and how often the request is sent then.
#[tokio::test]
async fn a_request_is_sent_again_only_without_a_response() {
    for (before_the_end, times) in [
        ("", 2),
        ("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{", 1),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{", 1),
        ("SSH-2.0-OpenSSH\r\n\r\n", 1),
        ("HTTP/1.1 503 Gone\r\ncontent-length: 0\r\n\r\n", 1),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut chunk = [0; 8192];
                if let Ok(1..) = stream.read(&mut chunk).await {
                    counted.fetch_add(1, Ordering::SeqCst);
                }
                let _ = stream.write_all(before_the_end.as_bytes()).await;
            }
        });
        assert!(decide(&webhook(&base)).await.is_err());
        assert_eq!(asked.load(Ordering::SeqCst), times, "{before_the_end:?}");
    }
}
