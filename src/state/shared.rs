//! The state that the nodes of a fleet share, in PostgreSQL. The database is not trusted: everything in it is authenticated, and
//! each node remembers the newest state that it has seen. So the database can delay what operators change, and allow nothing.

mod alarm;
mod beat;
mod client;
mod head;
mod judge;
mod schema;
mod seal;
mod table;
mod view;

pub use self::alarm::Alarm;
pub use self::client::{DatabaseError, examine};
pub use self::seal::{FleetId, NodeId};
pub use self::view::{Stale, Standing, View};
