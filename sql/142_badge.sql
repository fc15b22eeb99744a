-- 142_badge.sql: a picture of one line that says whether a repo is restorable, for those who know its address.

alter table repo add column badge text unique check (badge ~ '^[0-9a-f]{32}$');  -- what its address ends in; null: it has none
