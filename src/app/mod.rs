//! The composition root. Everything is built and bound first and run later, and every long-lived
//! task is named here.
mod bind;
mod components;
mod drain;
mod listeners;
mod quota;
mod reload;
mod run;

pub use bind::{BindError, Bound, bind};
pub use listeners::{Addresses, ListenError};
