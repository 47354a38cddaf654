//! The composition root: everything is bound first and run later, and every long-lived task is named here.
mod bind;
mod drain;
mod quota;
mod reload;
mod run;

pub use bind::{Addresses, BindError, Bound, bind};
