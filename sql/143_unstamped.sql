-- 143_unstamped.sql: checkpoints are not time-stamped by an authority.

alter table checkpoint drop column stamped_at;
