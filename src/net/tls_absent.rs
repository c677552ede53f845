//! What stands for TLS in a build without it: types of which there is no value.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::Arc;

use super::stream::Input;
use crate::config::{CertificateError, CertificateFiles, Validity};
use crate::metrics::WorkerMetrics;

/// One of the two sides of a session.
pub trait Side {}

/// The side that is spoken to first.
#[derive(Debug)]
pub enum Server {}

impl Side for Server {}

/// The TLS of one connection.
#[derive(Debug)]
pub struct Tls<C>(Infallible, PhantomData<C>);

#[derive(Clone, Debug)]
pub(crate) struct ServerConfig(Infallible);

#[derive(Debug)]
pub(crate) struct Certificates(Infallible);

#[derive(Debug)]
pub(crate) struct Acceptor(Infallible);

pub(crate) const TURNED_AWAY: [u8; 0] = [];

impl Certificates {
    pub(crate) fn new(_: &[CertificateFiles]) -> io::Result<Self> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "built without the feature `tls`"))
    }

    pub(crate) fn load(&mut self) -> Result<ServerConfig, CertificateError> {
        match self.0 {}
    }

    pub(crate) fn validities(&self) -> &BTreeMap<PathBuf, Validity> {
        match self.0 {}
    }
}

impl Acceptor {
    pub(crate) fn new(config: ServerConfig, _: usize, _: Arc<WorkerMetrics>) -> Self {
        match config.0 {}
    }

    pub(crate) fn renew(&mut self, config: ServerConfig) {
        match config.0 {}
    }

    pub(crate) fn accept(&self) -> io::Result<Box<Tls<Server>>> {
        match self.0 {}
    }
}

#[expect(missing_docs, reason = "there is no value to call these on")]
#[expect(clippy::missing_errors_doc, reason = "there is no value to call these on")]
impl<C> Tls<C> {
    pub fn is_handshaking(&self) -> bool {
        match self.0 {}
    }

    pub fn is_resumed(&self) -> bool {
        match self.0 {}
    }

    pub fn is_plaintext(&self) -> bool {
        match self.0 {}
    }

    pub fn pending_bytes(&self) -> usize {
        match self.0 {}
    }

    pub fn pending_memory(&self) -> usize {
        match self.0 {}
    }

    pub fn is_closed(&self) -> bool {
        match self.0 {}
    }

    pub fn begin<S>(&mut self, _: &mut S) -> io::Result<()> {
        match self.0 {}
    }

    pub fn read<S>(&mut self, _: &mut S, _: &mut [u8], _: usize) -> io::Result<Input> {
        match self.0 {}
    }

    pub fn write<S>(&mut self, _: &mut S, _: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.0 {}
    }

    pub fn send_pending<S>(&mut self, _: &mut S) -> io::Result<bool> {
        match self.0 {}
    }

    pub fn close<S>(&mut self, _: &mut S) -> io::Result<()> {
        match self.0 {}
    }
}
