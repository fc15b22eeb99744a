-- 082_disconnected.sql: who stopped keeping a repo up to date, a person or the end of its connection.

-- A repo that is paused and disconnected was let go of because its connection ended: the rule of a connection that sees it
-- ("everything", a pattern) takes it up again. One that a person paused or let go waits for a person. Nobody knows that of
-- what was paused before this, so those wait for a person, too.
alter table repo add column disconnected boolean not null default false;
