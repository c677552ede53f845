//! Why a server did not start, or did not end well.

use std::fmt;
use std::io;

use crate::config::{AdminAddress, CertificateError};
use crate::route::InvalidRoute;

/// Why a server did not start.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// A route that cannot be served.
    Route(InvalidRoute),
    /// A setting out of its range.
    Setting(&'static str),
    /// A certificate or a key that cannot be used.
    Certificate(CertificateError),
    /// An address that cannot be listened on.
    Listen(String, io::Error),
    /// An address that the admin listener cannot have.
    Admin(AdminAddress, io::Error),
    /// The system refused a thread or a descriptor.
    System(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route(error) => error.fmt(f),
            Self::Setting(what) => f.write_str(what),
            Self::Certificate(error) => error.fmt(f),
            Self::Listen(address, error) if error.kind() == io::ErrorKind::AddrInUse => {
                write!(f, "cannot listen on {address}: something listens there already")
            }
            Self::Listen(address, error) => write!(f, "cannot listen on {address}: {error}"),
            Self::Admin(address, error) if error.kind() == io::ErrorKind::AddrInUse => {
                write!(f, "the admin listener cannot have {address}: something listens there already")
            }
            Self::Admin(address @ AdminAddress::Unix(_), error)
                if error.kind() == io::ErrorKind::NotFound =>
            {
                write!(f, "the admin listener cannot have {address}: there is no such directory")
            }
            Self::Admin(address, error) => write!(f, "the admin listener cannot have {address}: {error}"),
            Self::System(error) => write!(f, "cannot start: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// Why a server that was run did not end well.
#[derive(Debug)]
#[non_exhaustive]
pub enum RunError {
    /// It did not start.
    Start(StartError),
    /// A worker failed.
    Worker(io::Error),
}

impl From<StartError> for RunError {
    fn from(error: StartError) -> Self {
        Self::Start(error)
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(error) => error.fmt(f),
            Self::Worker(error) => write!(f, "a worker failed: {error}"),
        }
    }
}

impl std::error::Error for RunError {}
