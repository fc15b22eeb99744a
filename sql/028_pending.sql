-- 028_pending.sql: a run that dies between its manifest and its rows is finished as it would have finished itself.

-- What recording the snapshot whose manifest is about to be stored makes an end of: {"manifest": its SHA-256, "wish",
-- "seen", "suspicion", "claims", "lost"}. It is written with the run's last heartbeat before that manifest.
alter table lease add column pending jsonb;
