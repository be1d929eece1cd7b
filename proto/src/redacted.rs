//! Messages that carry passwords or keys print without them.

use std::fmt;

use crate::v1;

impl fmt::Debug for v1::CreateTaskRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreateTaskRequest")
            .field("request_id", &self.request_id)
            .field("spec", &self.spec)
            .field("start", &self.start)
            .field("acknowledge", &self.acknowledge)
            .field("acknowledge_all", &self.acknowledge_all)
            .field("precheck_only", &self.precheck_only)
            .field("verify_only", &self.verify_only)
            .field("verify", &self.verify)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for v1::ResumeTaskRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResumeTaskRequest")
            .field("task", &self.task)
            .field("acknowledge", &self.acknowledge)
            .field("acknowledge_all", &self.acknowledge_all)
            .field("table", &self.table)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for v1::InstallKeyRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InstallKeyRequest").finish_non_exhaustive()
    }
}

impl fmt::Debug for v1::Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("task_id", &self.task_id)
            .field("unit", &self.unit)
            .field("epoch", &self.epoch)
            .field("spec", &self.spec)
            .field("work", &self.work)
            .field("purpose", &self.purpose)
            .finish_non_exhaustive()
    }
}
