//! The messages of the API, generated from `proto/kms.proto`, and their JSON form.

use std::fmt;

use zeroize::Zeroize as _;

pub mod json;
mod omitted;

#[allow(missing_docs, clippy::all, unreachable_pub)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/kms.rs"));
}
pub use generated::*;

pub use self::omitted::OMITTED_FIELDS;

/// Messages with secrets print their name only and are wiped when dropped.
macro_rules! secret_message {
    ($($message:ident { $($field:ident),* })*) => {$(
        impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($message)).finish_non_exhaustive()
            }
        }

        impl Drop for $message {
            fn drop(&mut self) {
                $(self.$field.zeroize();)*
            }
        }
    )*};
}

secret_message! {
    AppKeyResponse { disk_crypt_key, env_crypt_key, k256_key }
    KmsKeys { ca_key, k256_key }
    KmsKeyResponse { temp_ca_key }
    EpochKeys { ca_key, k256_key }
    GetTempCaCertResponse { temp_ca_key }
    LegacyClearImageCacheRequest { token }
    OnboardRequest { source_token }
    GetKmsKeyRequest { join_token }
    ReportJoinRequest { join_token }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_messages_print_their_name_only() {
        let keys = KmsKeys { ca_key: "pem of the root".into(), k256_key: vec![7; 32] };
        assert_eq!(format!("{keys:?}"), "KmsKeys { .. }");
    }

    #[test]
    fn absent_fields_take_their_default_and_unknown_ones_are_ignored() {
        let request: GetAppKeyRequest = serde_json::from_str(r#"{"later": [1]}"#).expect("defaults");
        assert_eq!((request.api_version, request.vm_config.as_str()), (0, ""));
    }

    #[test]
    fn null_is_refused_where_a_value_is_required() {
        assert!(serde_json::from_str::<GetAppKeyRequest>(r#"{"vm_config": null}"#).is_err());
        let meta: GetMetaResponse = serde_json::from_str(r#"{"chain_id": null}"#).expect("optional");
        assert_eq!(meta.chain_id, None);
    }

    #[test]
    fn duplicate_fields_are_refused() {
        let error = serde_json::from_str::<AppId>(r#"{"app_id":"00","app_id":"01"}"#).expect_err("twice");
        assert!(error.to_string().contains("duplicate field"), "{error}");
    }

    #[test]
    fn an_array_is_taken_by_position() {
        assert_eq!(serde_json::from_str::<AppId>(r#"["0xAB"]"#).expect("array").app_id, [0xab]);
    }

    #[test]
    fn every_field_is_written_in_declaration_order() {
        let text =
            serde_json::to_string(&PublicKeyResponse { timestamp: 7, ..Default::default() }).expect("json");
        assert_eq!(text, r#"{"public_key":"","signature":"","timestamp":7,"signature_v1":""}"#);
        let meta = serde_json::to_string(&GetMetaResponse::default()).expect("json");
        assert!(meta.contains(r#""bootstrap_info":null,"is_dev":false,"gateway_app_id":null"#), "{meta}");
    }

    #[test]
    fn fields_of_epochs_are_written_when_set_only() {
        for (message, json) in [
            (AppId { app_id: vec![1], ..Default::default() }, r#"{"app_id":"01"}"#),
            (
                AppId { app_id: vec![1], root_epoch: Some(0), app_epoch: Some(7), ..Default::default() },
                r#"{"app_id":"01","root_epoch":0,"app_epoch":7}"#,
            ),
            (
                AppId { app_id: vec![1], app_domain: "sandbox".to_owned(), ..Default::default() },
                r#"{"app_id":"01","app_domain":"sandbox"}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&message).expect("json"), json);
            assert_eq!(serde_json::from_str::<AppId>(json).expect("json"), message);
        }
        let text = serde_json::to_string(&KmsKeyResponse::default()).expect("json");
        assert_eq!(text, r#"{"temp_ca_key":"","keys":[],"receipt":null}"#);
        let text = serde_json::to_string(&GetKmsKeyRequest::default()).expect("json");
        assert_eq!(text, r#"{"vm_config":""}"#);
        let read: AppId = serde_json::from_str(r#"{"root_epoch":"3","app_epoch":null}"#).expect("lenient");
        assert_eq!((read.root_epoch, read.app_epoch), (Some(3), None));
        for bad in ["4294967296", "-1", "1.5", r#""+1""#] {
            assert!(serde_json::from_str::<AppId>(&format!(r#"{{"root_epoch":{bad}}}"#)).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_tee_variant_is_written_under_both_names() {
        let info = AttestationInfoResponse { tee_variant: "dstack-tdx".into(), ..Default::default() };
        let text = serde_json::to_string(&info).expect("json");
        assert!(text.contains(r#""tee_variant":"dstack-tdx","attestation_mode":"dstack-tdx""#), "{text}");
        for name in ["tee_variant", "attestation_mode"] {
            let read: AttestationInfoResponse =
                serde_json::from_str(&format!(r#"{{"{name}":"x","ppid":"00"}}"#)).expect("json");
            assert_eq!((read.tee_variant.as_str(), read.ppid.as_slice()), ("x", [0].as_slice()));
        }
    }
}
