-- 026_api.sql: programs that sign in as a person, what they are answered twice, and what is measured.

-- A session is a browser's, or a program's that signed in by e-mail and password: that one holds a refresh token, which
-- is good for as long as any session lasts, however long nobody used it.
alter table session add column program boolean not null default false;

-- The answer to a request that creates something may hold a token: its body is sealed for its row and no other.
alter table idempotency drop column body;
alter table idempotency add column
  sealed bytea;

-- What /metrics counts of late.
create index job_ended on job (finished_at) where finished_at is not null;
