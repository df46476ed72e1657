//! Bundles on two nodes that share their state: one that is put in force on a node is in force on both, and none goes back.

use super::*;
use crate::support::postgres::Postgres;

/// Two nodes with the same signers; the second has no source of its own.
struct Two {
    _postgres: Postgres,
    first: Signed,
    second: World,
}

impl Two {
    async fn ready() -> Self {
        let postgres = Postgres::start().await;
        let mut first = Signed::stopped("").await;
        first.world.configure(&postgres.toml("node-0"));
        first.world.start().await.expect("the KMS starts");
        first.world.bootstrap().await;
        first.world.finish().await;
        first.in_force(1).await;
        let bundle = format!(
            "core.auth_api.bundle.keys = ['{}', '{}']\ncore.auth_api.bundle.threshold = 2\n",
            first.ann.verifying_key(),
            first.bob.verifying_key(),
        );
        let second = first.world.sibling_with(&format!("{}\n{bundle}", postgres.toml("node-1"))).await;
        let two = Self { _postgres: postgres, first, second };
        two.in_force(1).await;
        two.serve().await;
        two
    }

    /// Waits until both know that what they see is new: before, they release nothing.
    async fn serve(&self) {
        for world in self.worlds() {
            eventually("a view that shows that it is new", async || {
                let answer = send(world, request("GET", "/api/v1/fleet", "")).await;
                (answer.status == 200 && answer.value()["stale"].is_null()).then_some(())
            })
            .await;
        }
    }

    fn worlds(&self) -> [&World; 2] {
        [&self.first.world, &self.second]
    }

    async fn view(&self, world: &World) -> Value {
        let answer = send(world, request("GET", "/api/v1/policy/bundles", "")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.value()["domains"][0].clone()
    }

    async fn in_force(&self, serial: u64) {
        for world in self.worlds() {
            eventually(&format!("serial {serial} in force"), async || {
                (self.view(world).await["in_force"]["serial"] == serial).then_some(())
            })
            .await;
        }
    }

    /// Brings a bundle to a node and puts it in force there.
    async fn activate(&self, world: &World, bundle: &[u8]) {
        let told = push(world, bundle).await;
        assert_eq!(told.status, 200, "{}", told.text());
        let by = json!({ "digest": digest(bundle).to_string() }).to_string();
        let told = send(world, post("/api/v1/policy/bundles/activate", by)).await;
        assert_eq!(told.status, 200, "{}", told.text());
    }

    async fn status_of(&self, world: &World, app: u8) -> u16 {
        let guest = world.attested(&world.app(app)).await;
        world
            .caller()
            .shows(&guest)
            .json("GetAppKey", json!({ "api_version": 1, "vm_config": "" }))
            .await
            .status
    }
}

async fn push(world: &World, bundle: &[u8]) -> Answer {
    let call = post("/api/v1/policy/bundles", bundle.to_vec());
    send(world, with(call, "content-type", "application/octet-stream")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_put_in_force_on_one_node_decides_on_both_and_serials_only_grow_on_both() {
    let mut two = Two::ready().await;
    let first = fs::read(&two.first.source).expect("source");
    two.first.world.allow_app(&two.first.world.app(1));
    let second = two.first.bundle(2, Some(&first));
    two.activate(&two.second, &second).await;
    two.in_force(2).await;
    for world in two.worlds() {
        assert_eq!(two.status_of(world, 1).await, 200);
        assert_eq!(two.status_of(world, 2).await, 403);
        // The one before is refused on each, wherever it is brought.
        assert_eq!(code(&push(world, &first).await), (409, "bundle_serial_too_low".to_owned()));
    }
    let activated = two.first.world.audited("policy_bundle_activated");
    assert_eq!(activated.last().expect("a record")["by"], "node node-1");
    // A node that was away comes back with what it had, and takes over what is newer.
    two.second.stop().await;
    two.first.world.allow_app(&two.first.world.app(2));
    let third = two.first.bundle(3, Some(&second));
    two.activate(&two.first.world, &third).await;
    two.second.start().await.expect("it starts");
    two.in_force(3).await;
    two.serve().await;
    for world in two.worlds() {
        assert_eq!(two.status_of(world, 2).await, 200);
        assert_eq!(code(&push(world, &second).await), (409, "bundle_serial_too_low".to_owned()));
    }
    assert!(two.worlds().iter().all(|world| world.audited("state_alarm").is_empty()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_bundles_of_one_serial_on_two_nodes_are_a_fork_that_a_later_one_ends() {
    let two = Two::ready().await;
    let [one, other] = two.worlds();
    let first = fs::read(&two.first.source).expect("source");
    one.allow_app(&one.app(1));
    let left = two.first.bundle(2, Some(&first));
    one.allow_app(&one.app(2));
    let right = two.first.bundle(2, Some(&first));
    for (world, bundle) in [(one, &left), (other, &right)] {
        let told = push(world, bundle).await;
        assert_eq!(told.status, 200, "{}", told.text());
    }
    let activate = async |world: &World, bundle: &[u8]| {
        let by = json!({ "digest": digest(bundle).to_string() }).to_string();
        send(world, post("/api/v1/policy/bundles/activate", by)).await.status
    };
    let (of_left, of_right) = tokio::join!(activate(one, &left), activate(other, &right));
    assert!(of_left == 200 || of_right == 200, "{of_left} {of_right}");
    eventually("it is told", async || {
        let forked = [one, other].iter().map(|world| world.audited("policy_forked").len()).sum::<usize>();
        (forked > 0).then_some(())
    })
    .await;
    for world in [one, other] {
        assert_eq!(two.view(world).await["in_force"]["serial"], 2);
        assert_eq!(two.status_of(world, 1).await, 200, "both allow it");
        assert_eq!(two.status_of(world, 3).await, 403, "and neither allows this");
    }
    // Signers step over the serial that was given twice.
    one.allow_app(&one.app(3));
    let fourth = two.first.bundle(4, Some(&left));
    two.activate(one, &fourth).await;
    two.in_force(4).await;
    for world in [one, other] {
        let view = two.view(world).await;
        assert_eq!(view["in_force"]["digest"], digest(&fourth).to_string(), "{view}");
        assert_eq!(two.status_of(world, 3).await, 200);
    }
}
