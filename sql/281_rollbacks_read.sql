-- 281_rollbacks_read.sql: a plan of many repos is made repo by repo, while their hosts answer, and nothing of it begins before all are read.
alter table rollback add column created boolean not null default false; -- refs that did not exist before are chosen, too
alter table rollback add column moved boolean not null default false;   -- so are those that others pushed to since
alter table rollback_repo add column is_read boolean not null default true; -- what its refs hold is known; false: its host is to be asked
