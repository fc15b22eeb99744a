-- 280_moves_by_kind.sql: the moves whose account no host told, and those of tags, are found by index in a window of time.
create index ref_change_untold on ref_change (repo_id, snapshot) where pushed_by is null;
create index ref_change_moved on ref_change (repo_id, snapshot) where kind = 'moved';
