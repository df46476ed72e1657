//! An invitation as something that goes on for longer than a request.

use kms_wire::operation::{Operation, OperationStage};

use super::{JoinShown, StageShown};

impl From<JoinShown> for Operation {
    fn from(join: JoinShown) -> Self {
        let JoinShown { id, domain, state, over, confirmed, created_at, stages, advice, .. } = join;
        let stage = |StageShown { stage, at, code, denial_id }| OperationStage {
            stage: stage.name().to_owned(),
            at,
            node: None,
            reason: None,
            code,
            denial_id,
        };
        Self {
            kind: "replica_join".to_owned(),
            title: format!("{domain} gets the root keys"),
            state: state.to_owned(),
            over,
            succeeded: confirmed,
            started_at: created_at,
            stages: stages.into_iter().map(stage).collect(),
            waits_for: None,
            advice,
            href: format!("/api/v1/replica-joins/{id}"),
            id,
        }
    }
}
