//! The lists of this node for the others: the CVMs that got keys here, and the requests that were refused here.

use std::sync::Arc;
use std::time::Duration;

use crate::api::events::EventService;
use crate::error::Result;
use crate::events::{Cvm, CvmAsk, Inventory, MAX_REPORTED, Refusal, Reported};
use crate::state::shared::{ListKind, MAX_LIST, View};

/// How long the inventory may take to count what is recorded; the lists are not whole otherwise.
const PATIENCE: Duration = Duration::from_secs(1);

/// Makes the lists each time that they are to be shown to the other nodes, until dropped.
pub async fn show_lists(events: Arc<EventService>, view: Arc<View>) {
    loop {
        view.lists().due().await;
        let (inventory, denials) = told(lists(&events).await);
        view.lists().publish(ListKind::Inventory, inventory);
        view.lists().publish(ListKind::Denials, denials);
    }
}

/// The lists to be shown. Where they are not known, they are empty: the ones before lack what was released since, and must not be
/// called whole any longer.
fn told(lists: Result<(Vec<u8>, Vec<u8>)>) -> (Vec<u8>, Vec<u8>) {
    lists.unwrap_or_else(|error| {
        tracing::debug!(%error, "the lists of this node are not known");
        (Reported::<Cvm>::of([]).encode(MAX_LIST), Reported::<Refusal>::of([]).encode(MAX_LIST))
    })
}

async fn lists(events: &EventService) -> Result<(Vec<u8>, Vec<u8>)> {
    // What is recorded meanwhile is in the next lists.
    let is_current = events.inventory_reaches_now(PATIENCE).await?;
    events
        .ask_index(move |index| {
            let inventory: Inventory = index.inventory()?;
            let page = inventory.cvms(&CvmAsk { limit: MAX_REPORTED, ..CvmAsk::default() })?;
            let whole = is_current && page.next.is_none() && inventory.coverage()?.is_whole();
            let cvms = Reported { whole, ..Reported::of(page.cvms.into_iter().map(|(_, cvm)| cvm)) };
            let mut refusals = inventory.refusals()?;
            refusals.sort_by_key(|refusal| std::cmp::Reverse(refusal.times.last));
            Ok((cvms.encode(MAX_LIST), Reported::of(refusals).encode(MAX_LIST)))
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Code, Error};

    #[test]
    fn a_node_without_an_index_tells_that_it_does_not_know_all() {
        let (inventory, denials) = told(Err(Error::new(Code::Unavailable, "the index is built")));
        let nothing = Reported { entries: Vec::new(), whole: false };
        assert_eq!(Reported::<Cvm>::read(&inventory), Some(nothing));
        assert_eq!(Reported::<Refusal>::read(&denials), Some(Reported { entries: Vec::new(), whole: false }));
    }
}
