-- 057_restored_moments.sql: what was brought back may be a moment within a snapshot.

alter table restore add column moment int not null default 0 check (moment >= 0);  -- its number; 0: the snapshot itself
alter table drill   add column moment int not null default 0 check (moment >= 0);
