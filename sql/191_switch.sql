-- 191_switch.sql: when each write began, by the clock of the database, so that a switch knows what began before it.
alter table copy_due add column begun_at timestamptz not null default clock_timestamp();
