-- 166_recovery.sql: what is known of keys besides the keys.

alter table team
  add column recipients_at   timestamptz,  -- when it last changed to whom new objects are sealed; null: never
  add column keys_open_until timestamptz;  -- until then an owner may download the team's identities; null: nobody may

-- Since when SECRET_KEYS has not opened it; null: it does, or nobody has looked.
alter table team_key add column unreadable_since timestamptz;
