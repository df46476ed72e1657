//! The policy for `core.auth_api.type = "dev"`: it allows everything.

use crate::decision::Decision;
use crate::info::Info;

/// Allows everything. `GetMeta`, metrics and the log show that.
pub struct AllowAll {
    gateway_app_id: String,
}

impl AllowAll {
    /// Every app gets `gateway_app_id`; `any` turns off the guest's check of the gateway.
    pub fn new(gateway_app_id: String) -> Self {
        Self { gateway_app_id }
    }

    pub(crate) fn decide(&self) -> Decision {
        Decision::Allowed { gateway_app_id: self.gateway_app_id.clone(), release_stage: None, epochs: None }
    }

    pub(crate) fn info(&self) -> Info {
        Info { gateway_app_id: Some(self.gateway_app_id.clone()), ..Info::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;
    use crate::settings::AuthApi;

    #[test]
    fn everything_is_allowed_and_dev_is_visible() {
        let policy = Policy::from_config(&AuthApi::Dev { gateway_app_id: "any".to_owned() }).unwrap();
        let Policy::AllowAll(allow_all) = &policy else { panic!("dev is the policy that allows all") };
        let allowed =
            Decision::Allowed { gateway_app_id: "any".to_owned(), release_stage: None, epochs: None };
        assert_eq!(allow_all.decide(), allowed);
        assert!(policy.is_dev());
        let info = Info { gateway_app_id: Some("any".to_owned()), ..Info::default() };
        assert_eq!(policy.last_info(), Some(info));
    }
}
