-- 305_shares_ended.sql: share links that end for good with what their maker had.

-- A link ends when its maker's role no longer allows it, or when they set a new password or use a one-time link: it may have been
-- made by an intruder. It stays ended when they get the role back.
alter table share
  add column ended_as text check (ended_as in ('role', 'password')), -- null: it did not end so
  add column ended_at timestamptz,
  add check ((ended_as is null) = (ended_at is null));
