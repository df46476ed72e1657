//! Names, help texts and values of the metrics.

use super::*;

fn metrics() -> Metrics {
    let attested = ["GetAppKey", "GetKmsKey", "SignCert"].map(|name| (name, Kind::Attestation));
    let other = ["GetMeta", "Bootstrap"].map(|name| (name, Kind::Other));
    Metrics::new(attested.into_iter().chain(other))
}

#[test]
fn paths_are_methods() {
    let metrics = metrics();
    for (path, method, is_attestation) in [
        ("/prpc/GetAppKey", "GetAppKey", true),
        ("/prpc/KMS.GetAppKey", "GetAppKey", true),
        ("//prpc//KMS.SignCert", "SignCert", true),
        ("/prpc/KMS%2EGetKmsKey", "GetKmsKey", true),
        ("/prpc/Admin.GetKmsKey", "GetKmsKey", false),
        ("/kms.KMS/GetAppKey", "GetAppKey", false),
        ("/prpc/GetMeta", "GetMeta", false),
        ("/prpc/Onboard.Bootstrap", "Bootstrap", false),
        ("/prpc/NoSuchMethod", "other", false),
        ("/health", "other", false),
        ("/", "other", false),
        ("", "other", false),
    ] {
        let observed = metrics.observe(path);
        assert_eq!(metrics.requests.method(observed.method).name, method, "{path}");
        assert_eq!(observed.is_attestation, is_attestation, "{path}");
    }
}

#[test]
fn the_peers_counters_keep_their_names_help_and_meaning() {
    let metrics = metrics();
    assert!(metrics.render().contains("dstack_kms_attestation_requests_total 0\n"));
    for (path, status) in [
        ("/prpc/GetAppKey", 200),
        ("/prpc/KMS.GetKmsKey", 400),
        ("/prpc/SignCert", 503),
        ("/prpc/SignCert", 399),
        ("/prpc/GetMeta", 400),
    ] {
        metrics.answered(metrics.observe(path), status, Duration::ZERO);
    }
    let text = metrics.render();
    for line in [
        "# HELP dstack_kms_attestation_requests_total Total number of KMS attestation requests.",
        "# TYPE dstack_kms_attestation_requests_total counter",
        "dstack_kms_attestation_requests_total 4",
        "# HELP dstack_kms_attestation_failures_total Total number of failed KMS attestation requests.",
        "# TYPE dstack_kms_attestation_failures_total counter",
        "dstack_kms_attestation_failures_total 2",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
    }
}

#[test]
fn what_happens_is_counted_under_our_names() {
    let metrics = metrics();
    metrics.answered(metrics.observe("/prpc/GetAppKey"), 403, Duration::from_millis(3));
    metrics.denied("os_image_not_allowed");
    metrics.denied_in("sandbox", "os_image_not_allowed");
    metrics.released_in("default", "GetAppKey");
    metrics.policy_answer_in("sandbox", "denied");
    metrics.handshake("timeout");
    metrics.verification("refused");
    metrics.policy_answer("unavailable");
    metrics.connection_shed();
    metrics.address_limited();
    metrics.credentials_failed();
    metrics.audit_recorded();
    metrics.audit_failed();
    metrics.set_ready(true);
    metrics.set_audit_writable(true);
    metrics.set_audit_space(5, true);
    metrics.set_log_dropped(3);
    metrics.set_relaxed(["dev_auth", "no_tee"]);
    metrics.set_relaxed(["dev_auth"]);
    let open = metrics.connection();
    drop(metrics.connection());
    let hour = Duration::from_secs(3600);
    let state = CollateralState {
        entries: 2,
        oldest_age: hour,
        expires_in: hour,
        fetches: 5,
        failures: 1,
        refused_as_older: [("tcb_info", 3), ("qe_identity", 0), ("root_crl", 0), ("pck_crl", 1)],
        floors_unsaved: 2,
        unsaved: 4,
        refused_files: 1,
    };
    metrics.set_collateral(state);
    metrics.set_collateral(CollateralState { fetches: 7, ..state });
    let text = metrics.render();
    for line in [
        r#"cvm_kms_requests_total{method="GetAppKey",status="403"} 1"#,
        r#"cvm_kms_request_seconds_count{method="GetAppKey"} 1"#,
        r#"cvm_kms_request_seconds_bucket{method="GetAppKey",le="0.005"} 1"#,
        r#"cvm_kms_denials_total{code="os_image_not_allowed"} 1"#,
        r#"cvm_kms_denials_by_domain_total{code="os_image_not_allowed",domain="sandbox"} 1"#,
        r#"cvm_kms_releases_by_domain_total{domain="default",method="GetAppKey"} 1"#,
        r#"cvm_kms_policy_answers_by_domain_total{answer="denied",domain="sandbox"} 1"#,
        r#"cvm_kms_tls_handshakes_total{result="timeout"} 1"#,
        r#"cvm_kms_collateral_rollbacks_total{kind="tcb_info"} 3"#,
        r#"cvm_kms_collateral_rollbacks_total{kind="pck_crl"} 1"#,
        "cvm_kms_collateral_floors_unsaved_total 2",
        "cvm_kms_collateral_unsaved_total 4",
        "cvm_kms_collateral_files_refused 1",
        r#"cvm_kms_verifications_total{result="refused"} 1"#,
        r#"cvm_kms_policy_answers_total{answer="unavailable"} 1"#,
        r#"cvm_kms_shed_total{limit="max_connections"} 1"#,
        r#"cvm_kms_shed_total{limit="unauthenticated_per_second"} 1"#,
        "cvm_kms_failed_credentials_total 1",
        "cvm_kms_audit_records_total 1",
        "cvm_kms_audit_failures_total 1",
        "cvm_kms_audit_writable 1",
        "cvm_kms_audit_free_bytes 5",
        "cvm_kms_audit_space_low 1",
        "cvm_kms_log_dropped_total 3",
        "cvm_kms_connections 1",
        "cvm_kms_ready 1",
        r#"cvm_kms_relaxed{code="dev_auth"} 1"#,
        "cvm_kms_collateral_entries 2",
        "cvm_kms_collateral_age_seconds 3600",
        "cvm_kms_collateral_fetches_total 7",
        "cvm_kms_collateral_failures_total 1",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("no_tee"), "what is no longer relaxed is no longer shown");
    drop(open);
    assert!(metrics.render().contains("cvm_kms_connections 0"));
}

#[test]
fn the_state_of_a_webhook_is_shown() {
    let metrics = metrics();
    let is_shown = |line: &str| metrics.render().lines().any(|shown| shown == line);
    assert!(is_shown("cvm_kms_webhook_breaker_open 0"));
    metrics.breaker_opened();
    metrics.request_shed(ShedBy::Breaker);
    metrics.request_shed(ShedBy::Breaker);
    metrics.request_shed(ShedBy::Queue);
    for line in [
        "cvm_kms_webhook_breaker_open 1",
        "cvm_kms_webhook_breaker_openings_total 1",
        r#"cvm_kms_shed_total{limit="webhook_breaker"} 2"#,
        r#"cvm_kms_shed_total{limit="webhook_queue"} 1"#,
    ] {
        assert!(is_shown(line), "{line}");
    }
    metrics.breaker_closed();
    assert!(is_shown("cvm_kms_webhook_breaker_open 0"));
    assert!(is_shown("cvm_kms_webhook_breaker_openings_total 1"));
}
