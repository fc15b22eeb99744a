-- 054_lfs.sql: what Git LFS keeps outside git, which is not saved.

alter table repo
  add column lfs_files   int         not null default 0 check (lfs_files >= 0),  -- for which pointers are kept
  add column lfs_bytes   bigint      not null default 0 check (lfs_bytes >= 0),  -- as the pointers say
  add column lfs_seen_at timestamptz;                                            -- when they were last counted; null: never
