-- 080_attended.sql: jobs that whoever runs Everref does at the command line, so that a restore is told and undone alike.

-- No worker takes an attended job up, before its end or after it: without a heartbeat its command is gone, and so is its work.
alter table job add column attended boolean not null default false;
