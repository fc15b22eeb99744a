-- 022_crashes.sql: what takes its worker along each time is not tried for ever.

-- How often in a row a worker went away while it synced the repo.
alter table repo add column crashes int not null default 0 check (crashes >= 0);
