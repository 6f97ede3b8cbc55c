//! Who waits for news: readers that watch a service, and listeners to every event. Knows neither node nor network.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{broadcast, watch};

use crate::effect::Event;
use crate::view::{Reader, Service};

/// Events that a listener may be behind; then it loses the oldest, and is told how many.
pub(crate) const EVENTS_BEHIND_MAX: usize = 4_096;

/// Hands out news of a view.
#[derive(Debug)]
pub(crate) struct Hub {
    listeners: Mutex<Option<Listeners>>,
}

#[derive(Debug)]
struct Listeners {
    services: BTreeMap<Arc<str>, watch::Sender<Arc<Service>>>,
    events: broadcast::Sender<Event>,
}

impl Hub {
    pub(crate) fn new() -> Self {
        let events = broadcast::Sender::new(EVENTS_BEHIND_MAX);
        Self { listeners: Mutex::new(Some(Listeners { services: BTreeMap::new(), events })) }
    }

    /// A panic of another holder leaves the maps whole: nothing in here is changed halfway.
    fn lock(&self) -> MutexGuard<'_, Option<Listeners>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells who waits what the view shows already: published services, then events.
    pub(crate) fn tell(&self, services: Vec<Arc<Service>>, events: impl Iterator<Item = Event>) {
        let listeners = self.lock();
        let Some(listeners) = listeners.as_ref() else { return };
        for service in services {
            if let Some(watched) = listeners.services.get(service.name()) {
                watched.send_replace(service);
            }
        }
        if listeners.events.receiver_count() > 0 {
            for event in events {
                // Fails only when the last listener went just now.
                let _ = listeners.events.send(event);
            }
        }
    }

    /// What `service` is now and will be; closed at once when the hub is.
    pub(crate) fn watch(&self, service: &str, reader: &Reader) -> watch::Receiver<Arc<Service>> {
        let now = || reader.service(service).unwrap_or_else(|| Arc::new(Service::empty(service)));
        let mut listeners = self.lock();
        let Some(listeners) = listeners.as_mut() else { return watch::channel(now()).1 };
        // Read under the lock: what is published later is also told later.
        listeners.services.entry(Arc::from(service)).or_insert_with(|| watch::Sender::new(now())).subscribe()
    }

    /// Forgets a service that nobody watches any more.
    pub(crate) fn release(&self, service: &str) {
        if let Some(listeners) = self.lock().as_mut()
            && listeners.services.get(service).is_some_and(|watched| watched.receiver_count() == 0)
        {
            listeners.services.remove(service);
        }
    }

    /// Every event from now on; closed at once when the hub is.
    pub(crate) fn events(&self) -> broadcast::Receiver<Event> {
        match self.lock().as_ref() {
            Some(listeners) => listeners.events.subscribe(),
            None => broadcast::channel(1).1,
        }
    }

    /// Ends every watch and every listener's stream, after what was told so far.
    pub(crate) fn close(&self) {
        *self.lock() = None;
    }

    #[cfg(test)]
    pub(crate) fn watched(&self) -> usize {
        self.lock().as_ref().map_or(0, |listeners| listeners.services.len())
    }
}
