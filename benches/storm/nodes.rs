//! KMSs with the same root keys, each a process with a key directory of its own.

use crate::MANY;
use crate::support::program::{Program, Setting, Sibling};
use crate::support::{Caller, DOMAIN, World, serves};

/// Some KMSs; dropping them ends them.
pub(crate) struct Nodes {
    setting: Setting,
    nodes: Vec<(Sibling, Program)>,
}

impl Nodes {
    /// `count` KMSs with these domains, each of which has one app. Rates are lifted: what is measured is work.
    pub(crate) async fn start(count: usize, domains: &[(&str, u8)]) -> Self {
        let mut setting = Setting::with(&format!("core.onboard.auto_bootstrap_domain = \"{DOMAIN}\"")).await;
        setting.lift_rates();
        for (name, app) in domains {
            setting.configure(&format!(
                "[domains.{name}]\nallow_dev_images = true\napps = [\"{}\"]",
                format!("{app:02x}").repeat(20)
            ));
        }
        setting.world.allow_app(&setting.world.app(MANY));
        for (_, app) in domains {
            setting.world.allow_app(&setting.world.app(*app));
        }
        setting.make_keys().await;
        let started = (0..count).map(|number| {
            let node = setting.sibling(number, "");
            let program = node.spawn();
            (node, program)
        });
        let nodes: Vec<_> = started.collect();
        for (node, _) in &nodes {
            serves(&node.caller()).await;
        }
        Self { setting, nodes }
    }

    pub(crate) fn world(&self) -> &World {
        &self.setting.world
    }

    pub(crate) fn count(&self) -> usize {
        self.nodes.len()
    }

    /// A client of one of them.
    pub(crate) fn caller(&self, number: usize) -> Caller {
        self.nodes[number].0.caller()
    }
}
