// The image catalogue as a library: `import { pullImage } from 'xhyve/images'`.
export { defaultCacheDir, type ImageFile, type ImageManifest, type ImageRole } from './cache.ts';
export { bootLine } from './command.ts';
export { type OnProgress, type Progress, ProgressDisplay, type ProgressSink, progressLine } from './progress.ts';
export { type ImageListing, listImages, type PulledImage, type PullOptions, pullImage } from './pull.ts';
