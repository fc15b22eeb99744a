-- 061_doubted.sql: accounts at forges that wait for their person's word.

-- Since when an account signs nobody in, as what was given before ended (a new password, a one-time link that was used)
-- and its person has not said that it is theirs. null: it signs its person in.
alter table identity add column doubted_at timestamptz;
