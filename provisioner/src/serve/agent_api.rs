//! What an agent asks: postcard both ways. A body that cannot be read is answered 400 with the reason in words.

use super::api::{Answer, OCTETS};
use super::operator_api::failed;
use crate::core::{Asker, Core, CoreError, Now};
use muster_protocol::hello::Hello;
use muster_protocol::sync::{Claim, Report, SyncRequest};
use muster_protocol::wire::{self, Versioned};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    Hello,
    Claim,
    Report,
    Sync,
}

pub(super) fn respond(core: &mut Core, now: Now, asker: &Asker, route: Route, body: &[u8]) -> Answer {
    match route {
        Route::Hello => answer(body, |hello: Hello| core.hello(now, asker, &hello)),
        Route::Claim => answer(body, |claim: Claim| core.claim(now, asker, &claim)),
        Route::Report => answer(body, |report: Report| core.report(now, asker, &report)),
        Route::Sync => answer(body, |request: SyncRequest| core.sync(now, asker, &request)),
    }
}

fn answer<Q: Versioned, A: Versioned>(body: &[u8], ask: impl FnOnce(Q) -> Result<A, CoreError>) -> Answer {
    let question = match wire::decode(body) {
        Ok(question) => question,
        Err(why) => {
            return Answer { status: 400, content_type: "text/plain", body: why.to_string().into_bytes() };
        }
    };
    match ask(question) {
        Ok(said) => Answer { status: 200, content_type: OCTETS, body: wire::encode(&said) },
        Err(error) => failed(&error),
    }
}
